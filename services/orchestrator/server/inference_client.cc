#include "services/orchestrator/server/inference_client.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"
#include "services/orchestrator/core/decisions.h"
#include "services/orchestrator/server/messages.h"

namespace palimpsest::orchestrator {
namespace {

constexpr char kClient[] = "orchestrator";
constexpr absl::Duration kAbort = absl::Seconds(5);  // a replica that is silent for longer is left

v1::GenerateRequest ToProto(const GenerateCall& call) {
  v1::GenerateRequest request;
  request.set_request_id(call.request_id);
  request.mutable_prompt_ids()->mutable_ids()->Add(call.prompt.begin(), call.prompt.end());
  request.set_n(call.n);
  request.set_first_sample(call.first_sample);
  *request.mutable_sampling() = wire::ToProto(call.sampling);
  if (!std::holds_alternative<context::NoTrigger>(call.context.trigger)) {
    *request.mutable_context() = wire::ToProto(call.context);
  }
  request.set_client(kClient);
  if (call.min_version.has_value()) request.set_min_policy_version(call.min_version->value());
  for (const rl::Rollout& begun : call.begun) *request.add_begun() = wire::ToProto(begun);
  return request;
}

v1::CreateSessionRequest ToProto(const SessionCall& call, absl::Duration ttl) {
  v1::CreateSessionRequest request;
  request.set_request_id(call.request_id);
  request.mutable_prompt_ids()->Add(call.prompt.begin(), call.prompt.end());
  if (!std::holds_alternative<context::NoTrigger>(call.context.trigger)) {
    *request.mutable_context() = wire::ToProto(call.context);
  }
  request.set_seed(call.seed);
  request.set_ttl_seconds(absl::ToDoubleSeconds(ttl));
  request.set_client(kClient);
  if (call.min_version.has_value()) request.set_min_policy_version(call.min_version->value());
  if (call.begun.has_value()) *request.mutable_begun() = wire::ToProto(*call.begun);
  return request;
}

v1::StepSessionRequest ToProto(const SessionStep& step) {
  v1::StepSessionRequest request;
  request.set_request_id(step.request_id);
  request.set_session_id(step.session.id);
  request.set_expected_tokens(step.expected_tokens);
  request.mutable_new_ids()->Add(step.new_ids.begin(), step.new_ids.end());
  *request.mutable_sampling() = wire::ToProto(step.sampling);
  return request;
}

}  // namespace

SampleCollector::SampleCollector(int32_t first, int32_t n)
    : first_(first), ended_(static_cast<size_t>(n)), samples_(static_cast<size_t>(n)) {
  for (int32_t i = 0; i < n; ++i) samples_[static_cast<size_t>(i)].sample = first + i;
}

Sample* SampleCollector::Place(int32_t sample) {
  const int64_t place = int64_t{sample} - first_;
  if (place < 0 || place >= static_cast<int64_t>(samples_.size())) return nullptr;
  ended_[static_cast<size_t>(place)] = true;
  return &samples_[static_cast<size_t>(place)];
}

void SampleCollector::Take(const v1::GenerateResponse& response) {
  if (response.has_finished()) {
    const v1::GenerationFinished& finished = response.finished();
    Sample* sample = Place(finished.sample());
    if (sample == nullptr) return;
    absl::StatusOr<rl::Rollout> rollout = wire::FromProto(finished.rollout());
    sample->status = rollout.status();
    sample->text = finished.text();
    if (rollout.ok()) {
      sample->rollout = *std::move(rollout);
    } else {
      sample->outcome = rl::Outcome::kInfraFailed;
    }
  } else if (response.has_error()) {
    const v1::GenerationError& error = response.error();
    Sample* sample = Place(error.sample());
    if (sample == nullptr) return;
    const auto code = static_cast<absl::StatusCode>(error.code());
    sample->status = absl::Status(
        code == absl::StatusCode::kOk ? absl::StatusCode::kInternal : code, error.message());
    sample->retryable = error.retryable();
    const absl::StatusOr<rl::Outcome> outcome = wire::FromProto(error.outcome(), "error.outcome");
    sample->outcome =
        outcome.ok() && *outcome != rl::Outcome::kOk ? *outcome : rl::Outcome::kInfraFailed;
    if (!error.has_partial()) return;
    absl::StatusOr<rl::Rollout> partial = wire::FromProto(error.partial(), "error.partial");
    if (partial.ok()) sample->rollout = *std::move(partial);
  }
}

std::vector<Sample> SampleCollector::Finish(const absl::Status& status) && {
  for (size_t i = 0; i < samples_.size(); ++i) {
    if (ended_[i]) continue;
    samples_[i].status = status.ok()
                             ? absl::InternalError("the stream ended without an end of this sample")
                             : status;
    samples_[i].outcome = rl::Outcome::kInfraFailed;
    samples_[i].retryable = true;
  }
  return std::move(samples_);
}

GrpcInferenceClient::GrpcInferenceClient(int replicas, const PeerConfig& config) : config_(config) {
  for (int rank = 0; rank < replicas; ++rank) {
    peers_.push_back(std::make_unique<Peer<Stub>>(
        "inference", rank, config,
        [](std::shared_ptr<grpc::Channel> channel) {
          return v1::InferenceService::NewStub(std::move(channel));
        },
        [](Stub& stub, grpc::ClientContext& context) {
          return IntroduceTo<v1::InferenceServiceGetServerInfoRequest,
                             v1::InferenceServiceGetServerInfoResponse>(
              stub, context, v1::CONTRACT_REVISION_CURRENT);
        }));
  }
}

absl::StatusOr<ModelFacts> GrpcInferenceClient::Describe() {
  v1::InferenceServiceGetServerInfoRequest request;
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  v1::InferenceServiceGetServerInfoResponse response;
  absl::Status status;
  for (const auto& peer : peers_) {
    status = peer->Call(config_.call, [&](Stub& stub, grpc::ClientContext& context) {
      return stub.GetServerInfo(&context, request, &response);
    });
    if (status.ok() && response.state() == v1::SERVING_STATE_SERVING) break;
  }
  RETURN_IF_ERROR(status);
  if (response.state() != v1::SERVING_STATE_SERVING) {
    return absl::UnavailableError("inference is not serving yet");
  }
  ModelFacts facts;
  facts.layers = response.model().layers();
  facts.kv_heads = response.model().kv_heads();
  facts.max_position = response.model().max_position();
  facts.stop_ids.assign(response.model().stop_ids().begin(), response.model().stop_ids().end());
  facts.version = PolicyVersion(response.policy_version());
  return facts;
}

absl::StatusOr<std::vector<Sample>> GrpcInferenceClient::Generate(const GenerateCall& call) {
  const v1::GenerateRequest request = ToProto(call);
  absl::Status status;
  for (size_t i = 0; i < peers_.size(); ++i) {
    SampleCollector collector(call.first_sample, call.n);
    bool accepted = false;
    status = peers_[(call.replica + i) % peers_.size()]->Call(
        config_.generate_call, [&](Stub& stub, grpc::ClientContext& context) {
          const auto stream = stub.Generate(&context, request);
          for (v1::GenerateResponse response; stream->Read(&response);) {
            accepted = true;
            collector.Take(response);
          }
          return stream->Finish();
        });
    if (status.ok() || accepted) return std::move(collector).Finish(status);
    if (!absl::IsUnavailable(status)) break;
  }
  return status;
}

absl::StatusOr<SessionRef> GrpcInferenceClient::CreateSession(const SessionCall& call) {
  const v1::CreateSessionRequest request = ToProto(call, config_.generate_call);
  absl::Status status;
  for (size_t i = 0; i < peers_.size(); ++i) {
    const size_t replica = (call.replica + i) % peers_.size();
    v1::CreateSessionResponse response;
    status = peers_[replica]->Call(config_.call, [&](Stub& stub, grpc::ClientContext& context) {
      return stub.CreateSession(&context, request, &response);
    });
    if (status.ok()) return SessionRef{response.session().session_id(), replica};
    if (!absl::IsUnavailable(status)) break;
  }
  return status;
}

absl::StatusOr<Sample> GrpcInferenceClient::StepSession(const SessionStep& step) {
  const v1::StepSessionRequest request = ToProto(step);
  SampleCollector collector(0, 1);
  bool accepted = false;
  const absl::Status status = peers_[step.session.replica]->Call(
      config_.generate_call, [&](Stub& stub, grpc::ClientContext& context) {
        const auto stream = stub.StepSession(&context, request);
        for (v1::GenerateResponse response; stream->Read(&response);) {
          accepted = true;
          collector.Take(response);
        }
        return stream->Finish();
      });
  if (!status.ok() && !accepted) return status;
  return std::move(std::move(collector).Finish(status).front());
}

void GrpcInferenceClient::DeleteSession(const SessionRef& session) {
  v1::DeleteSessionRequest request;
  request.set_session_id(session.id);
  v1::DeleteSessionResponse response;
  peers_[session.replica]
      ->Call(config_.call,
             [&](Stub& stub, grpc::ClientContext& context) {
               return stub.DeleteSession(&context, request, &response);
             })
      .IgnoreError();
}

absl::Status GrpcInferenceClient::UpdateWeights(const Weights& weights) {
  v1::UpdateWeightsRequest request;
  *request.mutable_weights() = AnnouncementToProto(weights);
  request.set_mode(v1::WEIGHTS_MODE_KEEP);
  std::vector<absl::Status> answers;
  for (const auto& peer : peers_) {
    v1::UpdateWeightsResponse response;
    answers.push_back(
        peer->Call(config_.switch_call, [&](Stub& stub, grpc::ClientContext& context) {
          return stub.UpdateWeights(&context, request, &response);
        }));
  }
  return ServedByFleet(answers);
}

absl::Status GrpcInferenceClient::AbortAll(const std::string& reason) {
  v1::AbortAllRequest request;
  request.set_client(kClient);
  request.set_reason(reason);
  absl::Status first;
  for (const auto& peer : peers_) {
    v1::AbortAllResponse response;
    const absl::Status aborted =
        peer->Call(std::min(config_.call, kAbort), [&](Stub& stub, grpc::ClientContext& context) {
          return stub.AbortAll(&context, request, &response);
        });
    first.Update(aborted);
    if (aborted.ok()) {
      first.Update(DeleteAllSessions(*peer));
    } else {
      peer->GiveUpCalls();
    }
  }
  return first;
}

// A page is asked for until there is none: what was on it is deleted by then.
absl::Status GrpcInferenceClient::DeleteAllSessions(Peer<Stub>& peer) {
  v1::ListSessionsRequest request;
  request.set_client(kClient);
  for (;;) {
    v1::ListSessionsResponse page;
    const absl::Status status =
        peer.Call(config_.call, [&](Stub& stub, grpc::ClientContext& context) {
          return stub.ListSessions(&context, request, &page);
        });
    if (absl::IsUnimplemented(status)) return absl::OkStatus();  // it has no sessions
    RETURN_IF_ERROR(status);
    if (page.sessions().empty()) return absl::OkStatus();
    for (const v1::Session& session : page.sessions()) {
      v1::DeleteSessionRequest gone;
      gone.set_session_id(session.session_id());
      v1::DeleteSessionResponse response;
      RETURN_IF_ERROR(peer.Call(config_.call, [&](Stub& stub, grpc::ClientContext& context) {
        return stub.DeleteSession(&context, gone, &response);
      }));
    }
  }
}

std::vector<PeerFacts> GrpcInferenceClient::Facts() const {
  std::vector<PeerFacts> facts;
  for (const auto& peer : peers_) facts.push_back(peer->Facts());
  return facts;
}

}  // namespace palimpsest::orchestrator
