#include "services/orchestrator/server/env_client.h"

#include <cmath>

#include "common/wire/rollout.h"

namespace palimpsest::orchestrator {
namespace {

v1::Episode ToProto(const Episode& episode) {
  v1::Episode proto;
  proto.set_task(episode.task);
  proto.set_split(static_cast<v1::Split>(episode.split));
  proto.set_seed(episode.seed);
  proto.set_index(episode.index);
  proto.set_state(episode.state);
  return proto;
}

Episode FromProto(const v1::Episode& proto) {
  return {proto.task(), static_cast<Split>(proto.split()), proto.seed(), proto.index(),
          proto.state()};
}

template <class Messages>
std::vector<Message> FromProto(const Messages& protos) {
  std::vector<Message> messages;
  for (const v1::ChatMessage& proto : protos) messages.push_back({proto.role(), proto.content()});
  return messages;
}

}  // namespace

GrpcEnvClient::GrpcEnvClient(int replicas, const PeerConfig& config) : config_(config) {
  for (int rank = 0; rank < replicas; ++rank) {
    peers_.push_back(std::make_unique<Peer<Stub>>(
        "env", rank, config,
        [](std::shared_ptr<grpc::Channel> channel) {
          return v1::EnvironmentService::NewStub(std::move(channel));
        },
        [](Stub& stub, grpc::ClientContext& context) {
          return IntroduceTo<v1::EnvironmentServiceGetServerInfoRequest,
                             v1::EnvironmentServiceGetServerInfoResponse>(
              stub, context, v1::CONTRACT_REVISION_CURRENT);
        }));
  }
}

Peer<GrpcEnvClient::Stub>& GrpcEnvClient::Next() { return *peers_[turn_++ % peers_.size()]; }

absl::StatusOr<std::vector<std::string>> GrpcEnvClient::Tasks() {
  v1::ListTasksResponse response;
  RETURN_IF_ERROR(Next().Call(config_.env_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.ListTasks(&context, v1::ListTasksRequest(), &response);
  }));
  std::vector<std::string> names;
  for (const v1::Task& task : response.tasks()) names.push_back(task.name());
  return names;
}

absl::StatusOr<Prompt> GrpcEnvClient::Reset(const Episode& episode) {
  v1::ResetRequest request;
  request.set_task(episode.task);
  request.set_split(static_cast<v1::Split>(episode.split));
  request.set_seed(episode.seed);
  request.set_index(episode.index);
  v1::ResetResponse response;
  RETURN_IF_ERROR(Next().Call(config_.env_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.Reset(&context, request, &response);
  }));
  Prompt prompt;
  prompt.episode = FromProto(response.episode());
  prompt.text = response.text();
  prompt.messages = FromProto(response.chat().messages());
  prompt.tags.assign(response.tags().begin(), response.tags().end());
  prompt.stops.assign(response.stops().begin(), response.stops().end());
  prompt.max_response = response.max_response();
  prompt.max_turns = response.max_turns();
  return prompt;
}

absl::StatusOr<EnvTurn> GrpcEnvClient::Step(const Episode& episode, const std::string& response) {
  v1::StepRequest request;
  *request.mutable_episode() = ToProto(episode);
  request.set_response_text(response);
  v1::StepResponse answer;
  RETURN_IF_ERROR(Next().Call(config_.env_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.Step(&context, request, &answer);
  }));
  return EnvTurn{FromProto(answer.episode()), FromProto(answer.messages()), answer.done()};
}

absl::StatusOr<Verdict> GrpcEnvClient::Score(const Episode& episode, const std::string& response) {
  v1::EnvironmentServiceScoreRequest request;
  *request.mutable_episode() = ToProto(episode);
  request.set_response_text(response);
  request.set_outcome(v1::OUTCOME_OK);
  v1::EnvironmentServiceScoreResponse answer;
  RETURN_IF_ERROR(Next().Call(config_.env_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.Score(&context, request, &answer);
  }));
  Verdict verdict;
  ASSIGN_OR_RETURN(verdict.outcome, wire::FromProto(answer.outcome(), "score.outcome"));
  verdict.reason = answer.reason();
  if (verdict.outcome != rl::Outcome::kOk) return verdict;
  if (!answer.has_reward() || !std::isfinite(answer.reward())) {
    return absl::InternalError("score.reward is absent or not finite");
  }
  verdict.reward = answer.reward();
  for (const v1::RewardPart& part : answer.parts()) {
    if (!std::isfinite(part.value())) {
      return absl::InternalError("score.parts." + part.name() + " is not finite");
    }
    verdict.parts[part.name()] = part.value();
  }
  return verdict;
}

absl::StatusOr<std::string> GrpcEnvClient::Demonstrate(const Episode& episode,
                                                       double answer_noise) {
  v1::DemonstrateRequest request;
  *request.mutable_episode() = ToProto(episode);
  request.set_answer_noise(answer_noise);
  v1::DemonstrateResponse response;
  RETURN_IF_ERROR(Next().Call(config_.env_call, [&](Stub& stub, grpc::ClientContext& context) {
    return stub.Demonstrate(&context, request, &response);
  }));
  return response.response_text();
}

std::vector<PeerFacts> GrpcEnvClient::Facts() const {
  std::vector<PeerFacts> facts;
  for (const auto& peer : peers_) facts.push_back(peer->Facts());
  return facts;
}

}  // namespace palimpsest::orchestrator
