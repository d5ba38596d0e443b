#include "tools/eval/grpc_peers.h"

#include <cmath>
#include <utility>
#include <variant>

#include "absl/strings/str_format.h"
#include "common/rl/episode.h"
#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "common/wire/sampling.h"

namespace palimpsest::tools::eval {
namespace {

constexpr absl::Duration kGenerateDeadline = absl::Hours(1);
constexpr absl::Duration kSessionLife = absl::Minutes(10);  // idle, should we not delete it
constexpr char kClient[] = "eval";

v1::Split SplitOf(const std::string& name) {
  return name == "train" ? v1::SPLIT_TRAIN : name == "sft" ? v1::SPLIT_SFT : v1::SPLIT_HELDOUT;
}

// What a worker raised on is the environment's failure, and it is asked again.
absl::Status OfEnvironment(const char* call, const absl::Status& status) {
  if (!absl::IsInternal(status)) return status;
  return absl::AbortedError(
      absl::StrFormat("the environment failed in %s: %s", call, std::string(status.message())));
}

ChatMessage FromProto(const v1::ChatMessage& proto) {
  ChatMessage message{proto.role(), proto.content()};
  if (proto.has_reasoning_content()) message.reasoning_content = proto.reasoning_content();
  return message;
}

Saying FromProto(const v1::ChatPrompt& proto) {
  Saying saying{.chat_template = proto.template_()};
  for (const v1::ChatMessage& message : proto.messages()) {
    saying.chat.messages.push_back(FromProto(message));
  }
  if (proto.has_add_generation_prompt()) {
    saying.chat.add_generation_prompt = proto.add_generation_prompt();
  }
  if (proto.has_enable_thinking()) saying.chat.enable_thinking = proto.enable_thinking();
  saying.chat.date_string = proto.date_string();
  return saying;
}

v1::ChatPrompt ToProto(const Saying& saying) {
  v1::ChatPrompt proto;
  for (const ChatMessage& message : saying.chat.messages) {
    v1::ChatMessage& added = *proto.add_messages();
    added.set_role(message.role);
    added.set_content(message.content);
    if (message.reasoning_content) added.set_reasoning_content(*message.reasoning_content);
  }
  proto.set_add_generation_prompt(saying.chat.add_generation_prompt);
  if (saying.chat.enable_thinking) proto.set_enable_thinking(*saying.chat.enable_thinking);
  proto.set_date_string(saying.chat.date_string);
  proto.set_template_(saying.chat_template);
  return proto;
}

absl::StatusOr<v1::Episode> EpisodeOf(const std::string& bytes) {
  v1::Episode episode;
  if (episode.ParseFromString(bytes)) return episode;
  return absl::InternalError("an episode did not come back as it was");
}

// Reads the answers to a request of one sample.
class OneSample {
 public:
  void Take(const v1::GenerateResponse& response) {
    if (response.has_finished()) result_ = response.finished();
    // Accepted and not finished: whatever the code is, the question made sense.
    if (response.has_error()) {
      result_ = absl::UnavailableError(absl::StrFormat("the generation failed (code %d): %s",
                                                       response.error().code(),
                                                       response.error().message()));
    }
  }
  // `ended`: how the stream did.
  absl::StatusOr<v1::GenerationFinished> Finish(const absl::Status& ended) && {
    if (!result_.ok() && !ended.ok()) return ended;
    return std::move(result_);
  }

 private:
  absl::StatusOr<v1::GenerationFinished> result_ =
      absl::UnavailableError("the stream ended without an end of the sample");
};

}  // namespace

absl::StatusOr<Question> GrpcPeers::Reset(const AnswerKey& key) {
  v1::ResetRequest request;
  request.set_task(key.task);
  request.set_split(SplitOf(key.split));
  request.set_seed(key.seed);
  request.set_index(key.index);
  v1::ResetResponse response;
  const absl::Status status =
      daemons_.env.Call(kEnvDeadline, [&](auto& stub, grpc::ClientContext* context) {
        return stub.Reset(context, request, &response);
      });
  RETURN_IF_ERROR(OfEnvironment("Reset", status));
  if (response.prompt_case() == v1::ResetResponse::PROMPT_NOT_SET) {
    return absl::AbortedError("the environment's answer to Reset holds no prompt");
  }
  return Question{
      .episode = response.episode().SerializeAsString(),
      .saying = response.has_chat() ? FromProto(response.chat()) : Saying{.text = response.text()},
      .tags = {response.tags().begin(), response.tags().end()},
      .stops = {response.stops().begin(), response.stops().end()},
      .max_response = response.max_response(),
      .max_turns = response.max_turns()};
}

absl::StatusOr<Turn> GrpcPeers::Step(const std::string& episode, const std::string& text) {
  v1::StepRequest request;
  ASSIGN_OR_RETURN(*request.mutable_episode(), EpisodeOf(episode));
  request.set_response_text(text);
  v1::StepResponse response;
  const absl::Status status =
      daemons_.env.Call(kEnvDeadline, [&](auto& stub, grpc::ClientContext* context) {
        return stub.Step(context, request, &response);
      });
  RETURN_IF_ERROR(OfEnvironment("Step", status));
  Turn turn{.episode = response.episode().SerializeAsString(), .done = response.done()};
  for (const v1::ChatMessage& message : response.messages()) {
    turn.messages.push_back(FromProto(message));
  }
  return turn;
}

absl::StatusOr<Verdict> GrpcPeers::Score(const std::string& episode, const std::string& text,
                                         bool cut) {
  v1::EnvironmentServiceScoreRequest request;
  ASSIGN_OR_RETURN(*request.mutable_episode(), EpisodeOf(episode));
  request.set_response_text(text);
  request.set_outcome(cut ? v1::OUTCOME_TRUNCATED : v1::OUTCOME_OK);
  v1::EnvironmentServiceScoreResponse verdict;
  const absl::Status status =
      daemons_.env.Call(kEnvDeadline, [&](auto& stub, grpc::ClientContext* context) {
        return stub.Score(context, request, &verdict);
      });
  RETURN_IF_ERROR(OfEnvironment("Score", status));
  if (verdict.outcome() != v1::OUTCOME_OK) {
    return absl::AbortedError(absl::StrFormat("the environment could not judge (%s): %s",
                                              v1::Outcome_Name(verdict.outcome()),
                                              verdict.reason()));
  }
  if (!verdict.has_reward() || !std::isfinite(verdict.reward())) {
    return absl::AbortedError("the environment's reward is absent or not finite");
  }
  Verdict read{.reward = verdict.reward(), .reason = verdict.reason()};
  for (const v1::RewardPart& part : verdict.parts()) {
    if (!std::isfinite(part.value())) {
      return absl::AbortedError("the environment's part " + part.name() + " is not finite");
    }
    read.parts[part.name()] = part.value();
  }
  return read;
}

absl::StatusOr<std::vector<int32_t>> GrpcPeers::Tokenize(const Saying& saying) {
  v1::TokenizeRequest request;
  if (saying.conversation()) {
    *request.mutable_chat() = ToProto(saying);
  } else {
    request.set_text(saying.text);
  }
  v1::TokenizeResponse response;
  RETURN_IF_ERROR(daemons_.inference.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
    return stub.Tokenize(context, request, &response);
  }));
  return std::vector<int32_t>(response.ids().begin(), response.ids().end());
}

absl::StatusOr<std::string> GrpcPeers::Detokenize(const std::vector<int32_t>& ids) {
  v1::DetokenizeRequest request;
  request.mutable_ids()->Add(ids.begin(), ids.end());
  v1::DetokenizeResponse response;
  RETURN_IF_ERROR(daemons_.inference.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
    return stub.Detokenize(context, request, &response);
  }));
  return response.text();
}

absl::StatusOr<Written> GrpcPeers::Generate(const GenerateCall& call) {
  v1::GenerateRequest request;
  request.set_request_id(call.request_id);
  request.mutable_prompt_ids()->mutable_ids()->Add(call.prompt.begin(), call.prompt.end());
  request.set_n(1);
  request.set_first_sample(call.sample);
  *request.mutable_sampling() = wire::ToProto(call.sampling);
  if (!std::holds_alternative<context::NoTrigger>(call.context.trigger)) {
    *request.mutable_context() = wire::ToProto(call.context);
  }
  if (call.messages) *request.mutable_budget_messages() = wire::ToProto(*call.messages);
  request.set_client(kClient);
  request.set_min_policy_version(version_);
  OneSample sample;
  const absl::Status ended =
      daemons_.inference.Call(kGenerateDeadline, [&](auto& stub, grpc::ClientContext* context) {
        const auto stream = stub.Generate(context, request);
        for (v1::GenerateResponse response; stream->Read(&response);) sample.Take(response);
        return stream->Finish();
      });
  ASSIGN_OR_RETURN(const v1::GenerationFinished finished, std::move(sample).Finish(ended));
  return Read(finished);
}

absl::StatusOr<std::string> GrpcPeers::CreateSession(const SessionCall& call) {
  v1::CreateSessionRequest request;
  request.set_request_id(call.request_id);
  request.mutable_prompt_ids()->Add(call.prompt.begin(), call.prompt.end());
  if (!std::holds_alternative<context::NoTrigger>(call.context.trigger)) {
    *request.mutable_context() = wire::ToProto(call.context);
  }
  request.set_seed(call.seed);
  request.set_ttl_seconds(absl::ToDoubleSeconds(kSessionLife));
  request.set_client(kClient);
  request.set_min_policy_version(version_);
  v1::CreateSessionResponse response;
  RETURN_IF_ERROR(daemons_.inference.Call(kQuick, [&](auto& stub, grpc::ClientContext* context) {
    return stub.CreateSession(context, request, &response);
  }));
  return response.session().session_id();
}

absl::StatusOr<Written> GrpcPeers::StepSession(const SessionStep& step) {
  v1::StepSessionRequest request;
  request.set_request_id(step.request_id);
  request.set_session_id(step.session);
  request.set_expected_tokens(step.expected_tokens);
  request.mutable_new_ids()->Add(step.new_ids.begin(), step.new_ids.end());
  *request.mutable_sampling() = wire::ToProto(step.sampling);
  if (step.messages) *request.mutable_budget_messages() = wire::ToProto(*step.messages);
  OneSample sample;
  absl::Status ended =
      daemons_.inference.Call(kGenerateDeadline, [&](auto& stub, grpc::ClientContext* context) {
        const auto stream = stub.StepSession(context, request);
        for (v1::GenerateResponse response; stream->Read(&response);) sample.Take(response);
        return stream->Finish();
      });
  // A server that was started again does not know it: the episode is played again.
  if (rl::IsLost(ended)) {
    ended = absl::UnavailableError(
        absl::StrFormat("the session was lost: %s", std::string(ended.message())));
  }
  ASSIGN_OR_RETURN(const v1::GenerationFinished finished, std::move(sample).Finish(ended));
  return Read(finished);
}

void GrpcPeers::DeleteSession(const std::string& session) {
  v1::DeleteSessionRequest request;
  request.set_session_id(session);
  v1::DeleteSessionResponse response;
  daemons_.inference
      .Call(kQuick,
            [&](auto& stub, grpc::ClientContext* context) {
              return stub.DeleteSession(context, request, &response);
            })
      .IgnoreError();
}

absl::StatusOr<Written> GrpcPeers::Read(const v1::GenerationFinished& finished) const {
  absl::StatusOr<rl::Rollout> rollout = wire::FromProto(finished.rollout());
  if (!rollout.ok()) {
    return absl::DataLossError(absl::StrFormat("the server's rollout makes no sense: %s",
                                               std::string(rollout.status().message())));
  }
  for (const rl::Span& span : rollout->spans) {
    if (span.version.value() == version_) continue;
    return absl::FailedPreconditionError(
        absl::StrFormat("the server's weights were of version %d and are of %d now: an "
                        "evaluation is of one",
                        version_, span.version.value()));
  }
  return Written{*std::move(rollout), finished.text()};
}

}  // namespace palimpsest::tools::eval
