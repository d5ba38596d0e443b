#include "services/orchestrator/server/service.h"

#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/rl/replayed.h"
#include "common/rpc/status.h"
#include "common/wire/rollout.h"
#include "services/orchestrator/server/messages.h"

namespace palimpsest::orchestrator {
namespace {

constexpr int32_t kPage = 50, kMaxPage = 1000;
constexpr absl::Duration kLook = absl::Milliseconds(500);  // for a client that went away
constexpr double kMaxGrace = 3600;

grpc::Status Invalid(const std::string& message) {
  return {grpc::StatusCode::INVALID_ARGUMENT, message};
}

// "g000012" -> 12.
std::optional<int64_t> GroupNumber(const std::string& id) {
  int64_t group = 0;
  if (id.size() < 2 || id[0] != 'g' || !absl::SimpleAtoi(id.substr(1), &group)) return std::nullopt;
  return group;
}

absl::StatusOr<RolloutFilter> FilterOf(const v1::ListRolloutsRequest& request) {
  RolloutFilter filter;
  if (request.has_step()) filter.step = request.step();
  if (!request.group_id().empty()) {
    filter.group = GroupNumber(request.group_id());
    if (!filter.group.has_value()) {
      return absl::InvalidArgumentError("group_id='" + request.group_id() + "' names no group");
    }
  }
  if (request.outcome() != v1::OUTCOME_UNSPECIFIED) {
    ASSIGN_OR_RETURN(filter.outcome, wire::FromProto(request.outcome(), "outcome"));
  }
  if (request.page_size() < 0 || request.page_size() > kMaxPage) {
    return absl::InvalidArgumentError(
        absl::StrFormat("page_size=%d must lie in [0, %d]", request.page_size(), kMaxPage));
  }
  filter.limit = request.page_size() > 0 ? request.page_size() : kPage;
  if (!request.page_token().empty() && !absl::SimpleAtoi(request.page_token(), &filter.before)) {
    return absl::InvalidArgumentError("page_token='" + request.page_token() + "' is not ours");
  }
  return filter;
}

}  // namespace

grpc::Status OrchestratorServer::GetServerInfo(
    grpc::ServerContext*, const v1::OrchestratorServiceGetServerInfoRequest* request,
    v1::OrchestratorServiceGetServerInfoResponse* response) {
  if (request->revision() != v1::CONTRACT_REVISION_CURRENT) {
    return {grpc::StatusCode::FAILED_PRECONDITION,
            absl::StrFormat("revision=%d, ours is %d", request->revision(),
                            static_cast<int>(v1::CONTRACT_REVISION_CURRENT))};
  }
  *response->mutable_server() = info_;
  response->set_state(run_.Paused() ? v1::SERVING_STATE_PAUSED : v1::SERVING_STATE_SERVING);
  return grpc::Status::OK;
}

grpc::Status OrchestratorServer::GetProgress(grpc::ServerContext*, const v1::GetProgressRequest*,
                                             v1::GetProgressResponse* response) {
  *response->mutable_progress() = ProgressToProto(run_.Now(), peers_());
  return grpc::Status::OK;
}

grpc::Status OrchestratorServer::WatchProgress(
    grpc::ServerContext* context, const v1::WatchProgressRequest* request,
    grpc::ServerWriter<v1::WatchProgressResponse>* writer) {
  const double interval = request->min_interval_seconds();
  if (!(interval >= 0 && interval <= kMaxGrace)) {
    return Invalid(absl::StrFormat("min_interval_seconds=%g must lie in [0, 3600]", interval));
  }
  ProgressSieve sieve(absl::Seconds(interval));
  for (int64_t seen = -1;;) {
    const bool last = run_.Ended() || stopping_();
    const absl::Duration wait = std::min(kLook, sieve.Wait(absl::Now()));
    const Progress progress = run_.WaitForChange(seen, last ? absl::ZeroDuration() : wait);
    if (context->IsCancelled()) return grpc::Status::CANCELLED;
    seen = progress.sequence;
    if (sieve.Passes(progress, last, absl::Now())) {
      v1::WatchProgressResponse response;
      *response.mutable_progress() = ProgressToProto(progress, peers_());
      if (!writer->Write(response)) return grpc::Status::CANCELLED;
    }
    if (last) return grpc::Status::OK;
  }
}

grpc::Status OrchestratorServer::ListRollouts(grpc::ServerContext*,
                                              const v1::ListRolloutsRequest* request,
                                              v1::ListRolloutsResponse* response) {
  const absl::StatusOr<RolloutFilter> filter = FilterOf(*request);
  if (!filter.ok()) return ToGrpc(filter.status());
  const absl::StatusOr<RolloutPage> page = run_.ListRollouts(*filter);
  if (!page.ok()) return ToGrpc(page.status());
  for (const RolloutRow& row : page->rows) *response->add_rollouts() = SummaryToProto(row);
  if (page->next > 0) response->set_next_page_token(std::to_string(page->next));
  return grpc::Status::OK;
}

grpc::Status OrchestratorServer::GetRollout(grpc::ServerContext*,
                                            const v1::GetRolloutRequest* request,
                                            v1::GetRolloutResponse* response) {
  const absl::StatusOr<RolloutRow> row = run_.GetRollout(request->rollout_id());
  if (!row.ok()) return ToGrpc(row.status());
  const absl::StatusOr<rl::Rollout> rollout = codec_.Decode(row->bytes);
  if (!rollout.ok()) return ToGrpc(rollout.status());
  *response->mutable_summary() = SummaryToProto(*row);
  *response->mutable_rollout() = wire::ToProto(*rollout);
  response->set_response_text(row->text);
  response->set_reason(row->reason);
  for (const auto& [name, value] : row->parts) {
    v1::RewardPart& part = *response->add_parts();
    part.set_name(name);
    part.set_value(value);
  }
  if (!row->replayed.empty()) {
    const absl::StatusOr<std::vector<float>> replayed = rl::ByPosition(*rollout, row->replayed);
    if (!replayed.ok()) return ToGrpc(replayed.status());
    response->mutable_trainer_logprobs()->Assign(replayed->begin(), replayed->end());
  }
  const absl::StatusOr<std::vector<std::string>> pieces = run_.Pieces(rollout->tokens);
  if (!pieces.ok()) return ToGrpc(pieces.status());
  for (size_t i = 0; i < pieces->size(); ++i) {
    response->add_pieces((*pieces)[i]);
    if (i < static_cast<size_t>(rollout->prompt_tokens)) {
      response->mutable_prompt_text()->append((*pieces)[i]);
    }
  }
  return grpc::Status::OK;
}

grpc::Status OrchestratorServer::Pause(grpc::ServerContext*,
                                       const v1::OrchestratorServicePauseRequest*,
                                       v1::OrchestratorServicePauseResponse* response) {
  run_.SetPaused(true);
  response->set_in_flight(run_.InFlight());
  return grpc::Status::OK;
}

grpc::Status OrchestratorServer::Resume(grpc::ServerContext*,
                                        const v1::OrchestratorServiceResumeRequest*,
                                        v1::OrchestratorServiceResumeResponse*) {
  run_.SetPaused(false);
  return grpc::Status::OK;
}

grpc::Status OrchestratorServer::Drain(grpc::ServerContext*,
                                       const v1::OrchestratorServiceDrainRequest* request,
                                       v1::OrchestratorServiceDrainResponse* response) {
  const double grace = request->grace_seconds();
  if (!(grace >= 0 && grace <= kMaxGrace)) {
    return Invalid(absl::StrFormat("grace_seconds=%g must lie in [0, 3600]", grace));
  }
  run_.Drain(absl::Seconds(grace));
  response->set_step(run_.Now().step);
  return grpc::Status::OK;
}

}  // namespace palimpsest::orchestrator
