#include "services/inference/server/session_request.h"

#include <cmath>

#include "absl/strings/str_format.h"
#include "common/wire/context.h"
#include "common/wire/field.h"
#include "common/wire/rollout.h"
#include "services/inference/server/request.h"

namespace palimpsest::inference {
namespace {

constexpr int kMaxForks = 1000;  // of one call
constexpr double kMostTtlSeconds = 30 * 24 * 3600;

absl::Status CheckSessionId(const std::string& id) {
  return id.empty() ? wire::Refused("session_id", "is empty") : absl::OkStatus();
}

}  // namespace

absl::StatusOr<SessionSpec> ParseCreateSession(const v1::CreateSessionRequest& proto,
                                               const Engine& engine) {
  RETURN_IF_ERROR(CheckRequestId(proto.request_id()));
  RETURN_IF_ERROR(CheckClient(proto.client()));
  RETURN_IF_ERROR(CheckMinVersion(
      proto.has_min_policy_version() ? std::optional(proto.min_policy_version()) : std::nullopt,
      engine.version()));
  SessionSpec spec{.request_id = proto.request_id(),
                   .client = proto.client(),
                   .seed = proto.seed(),
                   .prompt = {proto.prompt_ids().begin(), proto.prompt_ids().end()}};
  RETURN_IF_ERROR(CheckIds("prompt_ids", spec.prompt, engine.model().vocab));
  if (proto.has_context()) {
    ASSIGN_OR_RETURN(spec.context, wire::FromProto(proto.context(), "context"));
    if (!spec.prompt.empty()) {
      const auto prompt = static_cast<int32_t>(spec.prompt.size());
      RETURN_IF_ERROR(wire::Under("context", context::Validate(spec.context, prompt)));
    }
  }
  if (proto.has_begun()) {
    ASSIGN_OR_RETURN(spec.begun, wire::FromProto(proto.begun(), "begun"));
  }
  if (proto.has_ttl_seconds()) {
    if (!(proto.ttl_seconds() > 0 && proto.ttl_seconds() <= kMostTtlSeconds)) {
      return wire::Refused("ttl_seconds", absl::StrFormat("%g is not in (0, %g]",
                                                          proto.ttl_seconds(), kMostTtlSeconds));
    }
    spec.ttl = absl::Seconds(proto.ttl_seconds());
  }
  return spec;
}

absl::StatusOr<GenerationRequest> ParseStepSession(const v1::StepSessionRequest& proto,
                                                   const Engine& engine, const Tokenizer* tokenizer,
                                                   absl::Time deadline) {
  RETURN_IF_ERROR(CheckSessionId(proto.session_id()));
  GenerationRequest request{.request_id = proto.request_id(),
                            .prompt = {proto.new_ids().begin(), proto.new_ids().end()},
                            .priority = proto.priority(),
                            .deadline = deadline};
  RETURN_IF_ERROR(CheckIds("new_ids", request.prompt, engine.model().vocab));
  if (proto.sampling().has_prompt_logprobs()) {
    return absl::UnimplementedError("sampling.prompt_logprobs: not of a session's step; use Score");
  }
  ASSIGN_OR_RETURN(request.sampling, ParseSampling(proto.sampling(), tokenizer));
  if (proto.has_budget_messages()) {
    ASSIGN_OR_RETURN(request.budget_messages,
                     ParseBudgetMessages(proto.budget_messages(), tokenizer));
  }
  request.step = SessionStep{.id = proto.session_id(), .expected_tokens = proto.expected_tokens()};
  return request;
}

absl::StatusOr<GenerationRequest> ParseCompactSession(const v1::CompactSessionRequest& proto,
                                                      absl::Time deadline) {
  RETURN_IF_ERROR(CheckRequestId(proto.request_id()));
  RETURN_IF_ERROR(CheckSessionId(proto.session_id()));
  GenerationRequest request{.request_id = "compact/" + proto.request_id(), .deadline = deadline};
  request.sampling.max_tokens = 1;  // it draws none: no memory is asked for but the session's
  request.step = SessionStep{.id = proto.session_id(), .expected_tokens = proto.expected_tokens()};
  ASSIGN_OR_RETURN(request.step->compact, wire::FromProto(proto.window(), "window"));
  if (!proto.has_forced()) return request;
  ASSIGN_OR_RETURN(request.step->forced, wire::FromProto(proto.forced(), "forced"));
  if (const context::Range& window = request.step->forced->window;
      window != *request.step->compact) {
    return wire::Refused(
        "forced.window",
        absl::StrFormat("[%d, %d) is not the window [%d, %d)", window.begin, window.end,
                        request.step->compact->begin, request.step->compact->end));
  }
  return request;
}

absl::Status CheckForks(const v1::ForkSessionRequest& proto) {
  RETURN_IF_ERROR(CheckRequestId(proto.request_id()));
  RETURN_IF_ERROR(CheckSessionId(proto.session_id()));
  if (proto.forks() < 1 || proto.forks() > kMaxForks) {
    return wire::Refused("forks",
                         absl::StrFormat("%d is outside of [1, %d]", proto.forks(), kMaxForks));
  }
  if (proto.seeds_size() != proto.forks()) {
    return wire::Refused(
        "seeds", absl::StrFormat("%d of them for forks=%d", proto.seeds_size(), proto.forks()));
  }
  return absl::OkStatus();
}

v1::Session ToProto(const SessionInfo& info) {
  v1::Session proto;
  proto.set_session_id(info.id);
  proto.set_tokens(info.tokens);
  proto.set_turns(info.turns);
  proto.set_events(info.events);
  proto.set_live_count(info.live_count);
  proto.set_idle_seconds(absl::ToDoubleSeconds(info.idle));
  proto.set_ttl_seconds(absl::ToDoubleSeconds(info.ttl));
  proto.set_resident(info.resident);
  proto.set_busy(info.busy);
  proto.set_client(info.client);
  return proto;
}

}  // namespace palimpsest::inference
