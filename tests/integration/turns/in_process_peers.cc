#include "tests/integration/turns/in_process_peers.h"

#include <utility>

#include "absl/synchronization/notification.h"

namespace palimpsest::orchestrator {
namespace {

absl::StatusOr<env::Episode> Find(const env::Environment& task, const Episode& named) {
  absl::StatusOr<env::Episode> episode =
      task.Make(static_cast<env::Split>(named.split), named.seed, named.index);
  if (episode.ok()) episode->state = named.state;
  return episode;
}

// Keeps the end of a step.
class StepSink final : public inference::GenerationSink {
 public:
  void OnTokens(inference::TokenChunk) override {}
  void OnEvent(int32_t, const context::Event&) override {}
  void OnFinished(inference::Finished finished) override {
    sample_.rollout = std::move(finished.rollout);
    sample_.text = std::move(finished.text);
    done_.Notify();
  }
  void OnFailure(inference::Failure failure) override {
    sample_.status = std::move(failure.status);
    sample_.outcome = failure.outcome;
    done_.Notify();
  }
  Sample Wait() {
    done_.WaitForNotification();
    return std::move(sample_);
  }

 private:
  Sample sample_;
  absl::Notification done_;
};

}  // namespace

absl::StatusOr<std::vector<std::string>> TaskClient::Tasks() {
  return std::vector<std::string>{std::string(task_->name())};
}

absl::StatusOr<Prompt> TaskClient::Reset(const Episode& named) {
  ASSIGN_OR_RETURN(const env::Episode episode, Find(*task_, named));
  return Prompt{.episode = named,
                .text = episode.prompt,
                .messages = {},
                .tags = {},
                .max_response = episode.max_response_bytes,
                .max_turns = task_->max_turns()};
}

absl::StatusOr<EnvTurn> TaskClient::Step(const Episode& named, const std::string& response) {
  ASSIGN_OR_RETURN(const env::Episode episode, Find(*task_, named));
  ASSIGN_OR_RETURN(env::Turn turn, task_->Step(episode, response));
  EnvTurn answer{.episode = named, .messages = {}, .done = turn.done};
  answer.episode.state = std::move(turn.state);
  if (!turn.done) answer.messages = {{"user", std::move(turn.observation)}};
  return answer;
}

absl::StatusOr<Verdict> TaskClient::Score(const Episode& named, const std::string& response) {
  ASSIGN_OR_RETURN(const env::Episode episode, Find(*task_, named));
  ASSIGN_OR_RETURN(const env::Score score, task_->Grade(episode, response));
  return Verdict{rl::Outcome::kOk, score.reward, score.reason, score.parts};
}

absl::StatusOr<std::string> TaskClient::Demonstrate(const Episode& named, double noise) {
  ASSIGN_OR_RETURN(const env::Episode episode, Find(*task_, named));
  return task_->Demonstrate(episode, {.answer = noise});
}

absl::StatusOr<ModelFacts> EngineClient::Describe() {
  const inference::ModelInfo& model = engine_.model();
  return ModelFacts{.layers = model.layers,
                    .kv_heads = model.kv_heads,
                    .max_position = model.max_position,
                    .stop_ids = model.stop_ids,
                    .version = engine_.version()};
}

absl::StatusOr<std::vector<Sample>> EngineClient::Generate(const GenerateCall&) {
  return absl::UnimplementedError("single turns are not asked for here");
}

absl::StatusOr<SessionRef> EngineClient::CreateSession(const SessionCall& call) {
  ASSIGN_OR_RETURN(const inference::SessionInfo info,
                   engine_.sessions()->Create({.request_id = call.request_id,
                                               .client = "test",
                                               .context = call.context,
                                               .seed = call.seed,
                                               .ttl = std::nullopt,
                                               .prompt = call.prompt,
                                               .begun = call.begun}));
  return SessionRef{.id = info.id};
}

absl::StatusOr<Sample> EngineClient::StepSession(const SessionStep& step) {
  inference::GenerationRequest request{
      .request_id = step.request_id, .prompt = step.new_ids, .sampling = step.sampling};
  request.step =
      inference::SessionStep{.id = step.session.id, .expected_tokens = step.expected_tokens};
  const auto sink = std::make_shared<StepSink>();
  RETURN_IF_ERROR(engine_.Submit(std::move(request), sink));
  return sink->Wait();
}

void EngineClient::DeleteSession(const SessionRef& session) {
  engine_.sessions()->Delete(session.id);
}

absl::Status EngineClient::UpdateWeights(const Weights&) { return absl::OkStatus(); }

absl::Status EngineClient::AbortAll(const std::string&) { return absl::OkStatus(); }

}  // namespace palimpsest::orchestrator
