#include "services/trainer/server/service.h"

#include <grpcpp/server_context.h>

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/rpc/status.h"
#include "common/telemetry/log.h"
#include "services/trainer/server/messages.h"

namespace palimpsest::trainer {
namespace {

absl::Time DeadlineOf(const grpc::ServerContext* context) {
  const auto deadline = context->deadline();
  return deadline == std::chrono::system_clock::time_point::max() ? absl::InfiniteFuture()
                                                                  : absl::FromChrono(deadline);
}

// Writes what the worker answered.
template <class Response>
grpc::Status Answer(absl::StatusOr<Response> result, Response* response) {
  if (!result.ok()) return ToGrpc(result.status());
  *response = *std::move(result);
  return grpc::Status::OK;
}

}  // namespace

TrainerServer::TrainerServer(Options options, Trainer& trainer, Telemetry& telemetry, Clock& clock)
    : options_(std::move(options)),
      trainer_(trainer),
      telemetry_(telemetry),
      clock_(clock),
      worker_(options_.max_queued) {
  worker_
      .Run<bool>(absl::InfiniteFuture(),
                 [this]() -> absl::StatusOr<bool> {
                   TakeSnapshot();
                   return true;
                 })
      .IgnoreError();
}

void TrainerServer::TakeSnapshot() {
  Snapshot now{.step = trainer_.step(),
               .last_batch_id = trainer_.last_batch_id(),
               .sound = trainer_.Sound()};
  auto published = trainer_.Published();
  for (; told_failures_ < trainer_.save_failures(); ++told_failures_) telemetry_.SaveFailed();
  const absl::MutexLock lock(&mu_);
  now.published = published.ok() ? *std::move(published) : snapshot_.published;
  snapshot_ = std::move(now);
  TellReady();
  telemetry_.Status(snapshot_.step, trainer_.durable_step(),
                    snapshot_.published.empty() ? -1 : snapshot_.published.back().version.value());
}

TrainerServer::Snapshot TrainerServer::snapshot() const {
  const absl::MutexLock lock(&mu_);
  return snapshot_;
}

v1::ServingState TrainerServer::state() const {
  const absl::MutexLock lock(&mu_);
  return state_;
}

// Draining ends by the end only.
void TrainerServer::SetState(v1::ServingState state) {
  const absl::MutexLock lock(&mu_);
  if (state_ != v1::SERVING_STATE_DRAINING) state_ = state;
  TellReady();
}

void TrainerServer::TellReady() {
  telemetry_.SetReady(state_ == v1::SERVING_STATE_SERVING && snapshot_.sound.ok());
}

absl::Status TrainerServer::Ready() const {
  RETURN_IF_ERROR(Serving());
  return snapshot().sound;
}

absl::Status TrainerServer::Serving() const {
  switch (state()) {
    case v1::SERVING_STATE_SERVING:
      return absl::OkStatus();
    case v1::SERVING_STATE_PAUSED:
      return absl::UnavailableError("paused");
    default:
      return absl::UnavailableError("draining");
  }
}

absl::Status TrainerServer::Finish() {
  SetState(v1::SERVING_STATE_DRAINING);
  const absl::Status saved =
      worker_.Run<int64_t>(absl::InfiniteFuture(), [this] { return SaveNow(); }).status();
  worker_.Stop();
  return saved;
}

absl::StatusOr<v1::TrainBatchResponse> TrainerServer::TrainNow(const Batch& batch) {
  RETURN_IF_ERROR(Serving());  // paused or draining since it was queued
  ASSIGN_OR_RETURN(const TrainOutcome outcome, trainer_.Train(batch));
  const StepResult& r = outcome.result;
  if (!outcome.already_trained) {
    telemetry_.Trained(r);
    Log(r.skipped ? Severity::kWarning : Severity::kInfo,
        r.skipped ? "step skipped: nothing finite to learn" : "step",
        {{"step", r.step},
         {"loss", r.loss},
         {"grad_norm", r.grad_norm},
         {"loss_tokens", r.loss_tokens},
         {"rejected", r.rejected.size()}});
    for (const Rejected& x : r.rejected) {
      Log(Severity::kWarning, "item rejected",
          {{"id", x.id}, {"reason", Name(x.reason)}, {"why", x.message}});
    }
    if (const absl::Status sound = trainer_.Sound(); !sound.ok()) {
      Log(Severity::kError, "no more is learnt", {{"why", sound.ToString()}});
    }
    TakeSnapshot();
    const int64_t behind = trainer_.step() - trainer_.saving_step();
    if (options_.checkpoint_every > 0 && behind >= options_.checkpoint_every) SaveBeside();
  }
  return ToProto(outcome);
}

absl::StatusOr<v1::PublishResponse> TrainerServer::PublishNow(int64_t step) {
  const absl::Time start = clock_.Now();
  const std::vector<PublishedVersion> before = snapshot().published;
  PublishedVersion version;
  if (step == trainer_.step()) {
    ASSIGN_OR_RETURN(version, trainer_.Publish());
  } else {
    const auto found = std::find_if(before.rbegin(), before.rend(), [&](const PublishedVersion& v) {
      return v.source_step == step;
    });
    // Beyond the current step it is of weights that a rollback has lost: newer numbers are older.
    if (found == before.rend() || step > trainer_.step()) {
      return absl::FailedPreconditionError(absl::StrFormat(
          "step=%d is neither the current step %d nor published before it", step, trainer_.step()));
    }
    version = *found;
  }
  v1::PublishResponse response;
  *response.mutable_weights() = ToProto(version);
  response.set_already_published(std::find(before.begin(), before.end(), version) != before.end());
  response.set_seconds(absl::ToDoubleSeconds(clock_.Now() - start));
  if (!response.already_published()) {
    telemetry_.Published(response.seconds());
    Log(Severity::kInfo, "weights published",
        {{"version", version.version.value()}, {"step", version.source_step}});
  }
  TakeSnapshot();
  return response;
}

absl::StatusOr<int64_t> TrainerServer::SaveNow() {
  const absl::Status saved = trainer_.Save();
  TakeSnapshot();
  if (saved.ok()) return trainer_.durable_step();
  return saved;
}

// What fails is told by the log; the next step tries again.
void TrainerServer::SaveBeside() {
  if (trainer_.step() > 0 && trainer_.saving_step() == trainer_.step()) return;
  trainer_.BeginSave().IgnoreError();
}

grpc::Status TrainerServer::GetServerInfo(grpc::ServerContext*,
                                          const v1::TrainerServiceGetServerInfoRequest* request,
                                          v1::TrainerServiceGetServerInfoResponse* response) {
  if (request->revision() != v1::CONTRACT_REVISION_CURRENT) {
    return ToGrpc(absl::FailedPreconditionError(
        absl::StrFormat("revision=%d, this server speaks %d", request->revision(),
                        static_cast<int>(v1::CONTRACT_REVISION_CURRENT))));
  }
  const TrainerInfo& info = trainer_.info();
  *response->mutable_server() = options_.info;
  response->set_state(state());
  response->set_ranks(info.ranks);
  response->set_max_tokens_per_micro_batch(info.max_tokens_per_micro_batch);
  response->set_max_tokens_per_sequence(info.max_tokens_per_sequence);
  response->set_layers(info.layers);
  response->set_kv_heads(info.kv_heads);
  response->set_vocab(info.vocab);
  return grpc::Status::OK;
}

grpc::Status TrainerServer::GetStatus(grpc::ServerContext*, const v1::GetStatusRequest*,
                                      v1::GetStatusResponse* response) {
  const Snapshot now = snapshot();
  response->set_step(now.step);
  // What has been written since is of a step that the snapshot may not know yet.
  response->set_durable_step(std::min(now.step, trainer_.durable_step()));
  response->set_policy_version(now.published.empty() ? -1 : now.published.back().version.value());
  for (const PublishedVersion& version : now.published) {
    *response->add_published() = ToProto(version);
  }
  response->set_phase(ToProto(trainer_.phase()));
  response->set_last_batch_id(now.last_batch_id);
  response->set_state(state());
  return grpc::Status::OK;
}

grpc::Status TrainerServer::TrainBatch(grpc::ServerContext* context,
                                       const v1::TrainBatchRequest* request,
                                       v1::TrainBatchResponse* response) {
  if (absl::Status serving = Serving(); !serving.ok()) return ToGrpc(serving);
  absl::StatusOr<Batch> batch = FromProto(*request);
  if (!batch.ok()) return ToGrpc(batch.status());
  if (options_.keep_source) batch->source = request->SerializeAsString();
  return Answer(
      worker_.Run<v1::TrainBatchResponse>(
          DeadlineOf(context), [this, batch = *std::move(batch)] { return TrainNow(batch); }),
      response);
}

grpc::Status TrainerServer::Publish(grpc::ServerContext* context, const v1::PublishRequest* request,
                                    v1::PublishResponse* response) {
  return Answer(
      worker_.Run<v1::PublishResponse>(DeadlineOf(context),
                                       [this, step = request->step()] { return PublishNow(step); }),
      response);
}

grpc::Status TrainerServer::SaveCheckpoint(grpc::ServerContext* context,
                                           const v1::SaveCheckpointRequest* request,
                                           v1::SaveCheckpointResponse* response) {
  absl::StatusOr<int64_t> durable = trainer_.durable_step();
  if (request->wait()) {
    durable = worker_.Run<int64_t>(DeadlineOf(context), [this] { return SaveNow(); });
  } else if (absl::Status posted = worker_.Post([this] { SaveBeside(); }); !posted.ok()) {
    durable = posted;
  }
  if (!durable.ok()) return ToGrpc(durable.status());
  response->set_durable_step(*durable);
  return grpc::Status::OK;
}

grpc::Status TrainerServer::Pause(grpc::ServerContext*, const v1::TrainerServicePauseRequest*,
                                  v1::TrainerServicePauseResponse* response) {
  SetState(v1::SERVING_STATE_PAUSED);
  response->set_step(snapshot().step);
  return grpc::Status::OK;
}

grpc::Status TrainerServer::Resume(grpc::ServerContext*, const v1::TrainerServiceResumeRequest*,
                                   v1::TrainerServiceResumeResponse*) {
  SetState(v1::SERVING_STATE_SERVING);
  return state() == v1::SERVING_STATE_SERVING
             ? grpc::Status::OK
             : ToGrpc(absl::UnavailableError("draining: it cannot go on"));
}

grpc::Status TrainerServer::Drain(grpc::ServerContext* context,
                                  const v1::TrainerServiceDrainRequest*,
                                  v1::TrainerServiceDrainResponse* response) {
  SetState(v1::SERVING_STATE_DRAINING);
  const absl::StatusOr<int64_t> durable =
      worker_.Run<int64_t>(DeadlineOf(context), [this] { return SaveNow(); });
  options_.drained();
  if (!durable.ok()) return ToGrpc(durable.status());
  response->set_durable_step(*durable);
  return grpc::Status::OK;
}

}  // namespace palimpsest::trainer
