#include "services/env/server/worker_tasks.h"

#include <gmock/gmock.h>
#include <google/protobuf/util/json_util.h>
#include <gtest/gtest.h>

#include <functional>
#include <map>

namespace palimpsest::env {
namespace {

using ::testing::HasSubstr;

constexpr char kTasks[] =
    R"("list_tasks": {"tasks": [{"name": "quiz", "demonstrates": true},
                               {"name": "game", "multi_turn": true, "max_turns": 4}]})";

// Answers every call but the greeting with `body`, or fails with `loss`.
struct Script {
  std::string tasks = kTasks;
  std::string body;
  absl::Status loss;
  int64_t id_offset = 0;
  absl::Status accepted;    // what our side said about the last answer
  v1::WorkerRequest asked;  // the last one
};

class ScriptedWorker final : public Worker {
 public:
  explicit ScriptedWorker(Script& script) : script_(script) {}
  absl::Status Call(WorkerCall call, absl::Time) override {
    if (!script_.loss.ok()) return script_.loss;
    return script_.accepted = Answer(call, script_.body);
  }
  void Stop() override {}

  absl::Status Answer(const WorkerCall& call, const std::string& body) {
    script_.asked.Clear();
    EXPECT_TRUE(google::protobuf::util::JsonStringToMessage(call.request, &script_.asked).ok());
    return call.accept("{\"id\": " + std::to_string(script_.asked.id() + script_.id_offset) + ", " +
                       body + "}");
  }

 private:
  Script& script_;
};

class WorkerTasksTest : public ::testing::Test {
 protected:
  absl::Status Start(const std::set<std::string>& taken = {}, int workers = 1) {
    const WorkerStarter starter =
        [this](const WorkerConfig&,
               const WorkerCall& greeting) -> absl::StatusOr<std::unique_ptr<Worker>> {
      auto worker = std::make_unique<ScriptedWorker>(script_);
      const absl::Status greeted = worker->Answer(greeting, script_.tasks);
      if (!greeted.ok()) return greeted;
      return worker;
    };
    const std::vector<WorkerSection> sections(static_cast<size_t>(workers), {.name = "w"});
    auto started = WorkerTasks::Start(sections, taken, starter, metrics_);
    if (started.ok()) tasks_ = *std::move(started);
    return started.status();
  }
  absl::Status Score(const std::string& body) {
    script_.body = body;
    score_.Clear();
    v1::EnvironmentServiceScoreRequest request;
    request.mutable_episode()->set_task("quiz");
    request.set_response_text("it is \"4\"\n\u00e9");
    return tasks_->Score(request, absl::InfiniteFuture(), score_);
  }
  absl::Status Reset(const std::string& body) {
    script_.body = body;
    v1::ResetRequest request;
    request.set_task("quiz");
    request.set_split(v1::SPLIT_SFT);
    request.set_seed(18446744073709551615u);
    request.set_index(9);
    return tasks_->Reset(request, absl::InfiniteFuture(), reset_);
  }
  absl::Status Step(const std::string& body) {
    script_.body = body;
    v1::StepRequest request;
    request.mutable_episode()->set_task("game");
    request.mutable_episode()->set_index(3);
    return tasks_->Step(request, absl::InfiniteFuture(), step_);
  }
  void ExpectTaskFailed(const std::string& body, const std::string& why) {
    ASSERT_TRUE(Score(body).ok());
    EXPECT_EQ(score_.outcome(), v1::OUTCOME_TASK_FAILED);
    EXPECT_FALSE(score_.has_reward());
    EXPECT_THAT(score_.reason(), HasSubstr(why));
  }

  Script script_;
  Metrics metrics_{"env", "0", SystemClock()};
  std::unique_ptr<WorkerTasks> tasks_;
  v1::EnvironmentServiceScoreResponse score_;
  v1::ResetResponse reset_;
  v1::StepResponse step_;
};

TEST_F(WorkerTasksTest, RequestsAndAnswersAreTheMessagesOfTheContractAsJson) {
  ASSERT_TRUE(Start().ok());
  EXPECT_EQ(tasks_->tasks().size(), 2u);
  EXPECT_TRUE(tasks_->Find("quiz")->demonstrates());
  EXPECT_EQ(tasks_->Find("game")->max_turns(), 4);
  EXPECT_EQ(tasks_->Find("other"), nullptr);
  ASSERT_TRUE(Score(R"("score": {"reward": 0.25, "reason": "r", "outcome": "OUTCOME_OK",
                         "parts": [{"name": "p", "value": 2}]})")
                  .ok());
  EXPECT_EQ(script_.asked.score().response_text(), "it is \"4\"\n\u00e9");
  EXPECT_EQ(score_.reward(), 0.25);
  EXPECT_EQ(score_.parts(0).value(), 2);
}

TEST_F(WorkerTasksTest, AnEpisodeIsNamedByTheCallerAndOnlyItsStateByTheWorker) {
  ASSERT_TRUE(Start().ok());
  ASSERT_TRUE(Reset(R"("reset": {"text": "2+2?", "max_response": 5,
                                 "episode": {"task": "x", "index": 1, "state": "YWI="}})")
                  .ok());
  EXPECT_EQ(script_.asked.reset().seed(), 18446744073709551615u);
  EXPECT_EQ(reset_.episode().task(), "quiz");
  EXPECT_EQ(reset_.episode().index(), 9);
  EXPECT_EQ(reset_.episode().split(), v1::SPLIT_SFT);
  EXPECT_EQ(reset_.episode().state(), "ab");
  ASSERT_TRUE(Step(R"("step": {"episode": {"state": "YWI="}, "done": true})").ok());
  EXPECT_EQ(step_.episode().task(), "game");
  EXPECT_EQ(step_.episode().index(), 3);
  EXPECT_EQ(step_.episode().state(), "ab");
}

TEST_F(WorkerTasksTest, WhatCannotBeJudgedIsAnOutcomeAndNeverAReward) {
  ASSERT_TRUE(Start().ok());
  ExpectTaskFailed(R"("error": {"kind": "WORKER_ERROR_KIND_TASK_FAILED", "message": "boom"})",
                   "boom");
  ExpectTaskFailed(R"("error": {"message": "of no kind"})", "of no kind");
  ExpectTaskFailed(R"("score": {"reward": "NaN", "outcome": "OUTCOME_OK"})", "reward");
  ExpectTaskFailed(R"("score": {"reward": "Infinity", "outcome": "OUTCOME_OK"})", "reward");
  ExpectTaskFailed(R"("score": {"outcome": "OUTCOME_OK"})", "reward");
  ExpectTaskFailed(R"("score": {"reward": 1, "outcome": "OUTCOME_CANCELLED"})", "reward");
  ExpectTaskFailed(R"("score": {"reward": 1, "outcome": "OUTCOME_OK",
                                "parts": [{"name": "p", "value": "NaN"}]})",
                   "parts.p");
}

TEST_F(WorkerTasksTest, ALostWorkerIsAFailureOfTheInfrastructure) {
  ASSERT_TRUE(Start().ok());
  script_.loss = absl::AbortedError("worker w (pid 1): it ended");
  ASSERT_TRUE(Score("").ok());
  EXPECT_EQ(score_.outcome(), v1::OUTCOME_INFRA_FAILED);
  EXPECT_FALSE(score_.has_reward());
  EXPECT_EQ(score_.reason(), "worker w (pid 1): it ended");
  EXPECT_TRUE(absl::IsAborted(Reset("")));
  script_.loss = absl::UnavailableError("none was free");
  EXPECT_TRUE(absl::IsUnavailable(Score(""))) << "nothing was tried: the call may come again";
}

TEST_F(WorkerTasksTest, AnswersThatAreNoMessagesOfOursCostTheProcess) {
  ASSERT_TRUE(Start().ok());
  const auto refused = [&](const std::string& body) {
    Score(body).IgnoreError();
    return std::string(script_.accepted.message());
  };
  EXPECT_THAT(refused(R"("score": )"), HasSubstr("in \"{"));
  EXPECT_THAT(refused(R"("score": {"rewardd": 1})"), HasSubstr("rewardd"));
  EXPECT_THAT(refused(R"("score": {"reward": "a lot"})"), HasSubstr("in \"{"));
  EXPECT_THAT(refused(R"("reset": {"text": "?"})"), HasSubstr("another call"));
  script_.id_offset = -1;
  EXPECT_THAT(refused(R"("score": {"reward": 1, "outcome": "OUTCOME_OK"})"), HasSubstr("id="));
}

TEST_F(WorkerTasksTest, KindsOfErrorsKeepTheirMeaning) {
  ASSERT_TRUE(Start().ok());
  const auto error = [](const std::string& kind) {
    return R"("error": {"message": "m", "kind": "WORKER_ERROR_KIND_)" + kind + "\"}";
  };
  EXPECT_TRUE(absl::IsNotFound(Reset(error("NOT_FOUND"))));
  EXPECT_TRUE(absl::IsInvalidArgument(Score(error("INVALID_ARGUMENT"))));
  EXPECT_TRUE(absl::IsUnimplemented(Reset(error("UNIMPLEMENTED"))));
  EXPECT_TRUE(absl::IsInternal(Reset(error("TASK_FAILED"))));
}

TEST_F(WorkerTasksTest, PromptsAndTurnsThatMakeNoSenseAreRefused) {
  ASSERT_TRUE(Start().ok());
  EXPECT_THAT(std::string(Reset(R"("reset": {})").message()), HasSubstr("prompt is empty"));
  EXPECT_THAT(std::string(Reset(R"("reset": {"text": "?", "max_response": -1})").message()),
              HasSubstr("max_response=-1"));
  EXPECT_THAT(std::string(Step(R"("step": {"done": false})").message()), HasSubstr("done=0"));
  EXPECT_THAT(
      std::string(Step(R"("step": {"done": true, "messages": [{"role": "user"}]})").message()),
      HasSubstr("done=1 with 1"));
  const std::string state(4 * (kMaxState / 3 + 1), 'A');
  EXPECT_THAT(
      std::string(
          Step(R"("step": {"done": true, "episode": {"state": ")" + state + "\"}}").message()),
      HasSubstr("episode.state has"));
}

TEST_F(WorkerTasksTest, ANameBelongsToOneTask) {
  EXPECT_THAT(std::string(Start({"quiz"}).message()), HasSubstr("\"quiz\" of w"));
  EXPECT_TRUE(absl::IsInvalidArgument(Start({}, 2)));
  script_.tasks = R"("list_tasks": {"tasks": [{"name": ""}]})";
  EXPECT_TRUE(absl::IsInvalidArgument(Start()));
}

}  // namespace
}  // namespace palimpsest::env
