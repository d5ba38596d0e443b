// The daemon's service with real Python processes behind it, in a virtual environment that holds
// nothing.
#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <set>

#include "absl/strings/str_format.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "services/env/engine/worker_pool.h"
#include "services/env/server/environment_service.h"

namespace palimpsest::env {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using v1::EnvironmentService;

std::string CleanPython() {
  static const std::string folder = [] {
    const std::string made =
        std::filesystem::temp_directory_path() / absl::StrFormat("env_workers_test.%d", getpid());
    const std::string command = PALIMPSEST_TEST_PYTHON " -m venv --without-pip " + made;
    EXPECT_EQ(std::system(command.c_str()), 0);
    return made;
  }();
  return folder + "/bin/python";
}

class WorkersTest : public ::testing::Test {
 protected:
  static void TearDownTestSuite() {
    std::filesystem::remove_all(std::filesystem::path(CleanPython()).parent_path().parent_path());
  }
  ~WorkersTest() override {
    if (workers_ != nullptr) workers_->Stop();
  }

  void Serve(const std::string& module) {
    WorkerSection section{.name = "mine", .module = module, .python = CleanPython()};
    section.call_timeout = absl::Seconds(2);
    section.memory_bytes = int64_t{1} << 30;
    ASSERT_TRUE(Validate(section, "env.workers[0]").ok());
    const WorkerStarter start = [this](const WorkerConfig& config, const WorkerCall& greeting) {
      return WorkerPool::Start(config, greeting, WorkerMetrics(metrics_), SystemClock());
    };
    auto workers = WorkerTasks::Start({section}, {"registers", "countdown"}, start, metrics_);
    ASSERT_TRUE(workers.ok()) << workers.status();
    workers_ = *std::move(workers);
    service_ =
        std::make_unique<EnvironmentServer>(BuiltInEnvironments({}).value(), *workers_,
                                            ServerIdentity{"run", 0}, metrics_, SystemClock());
    server_ = RpcServer::Start({}, {service_.get()}, metrics_, SystemClock()).value();
    stub_ = EnvironmentService::NewStub(MakeChannel(server_->address(), {}).value());
  }

  static v1::Episode Named(const std::string& task, int64_t index,
                           v1::Split split = v1::SPLIT_TRAIN) {
    v1::Episode episode;
    episode.set_task(task);
    episode.set_split(split);
    episode.set_seed(11);
    episode.set_index(index);
    return episode;
  }
  grpc::Status Reset(const v1::Episode& episode, v1::ResetResponse& response) {
    v1::ResetRequest request;
    request.set_task(episode.task());
    request.set_split(episode.split());
    request.set_seed(episode.seed());
    request.set_index(episode.index());
    return stub_->Reset(MakeContext({}).get(), request, &response);
  }
  v1::EnvironmentServiceScoreResponse Score(const v1::Episode& episode, const std::string& text) {
    v1::EnvironmentServiceScoreRequest request;
    *request.mutable_episode() = episode;
    request.set_response_text(text);
    request.set_outcome(v1::OUTCOME_OK);
    v1::EnvironmentServiceScoreResponse response;
    const grpc::Status status = stub_->Score(MakeContext({}).get(), request, &response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response;
  }
  grpc::Status Step(const v1::Episode& episode, const std::string& text,
                    v1::StepResponse& response) {
    v1::StepRequest request;
    *request.mutable_episode() = episode;
    request.set_response_text(text);
    return stub_->Step(MakeContext({}).get(), request, &response);
  }
  // No reward for this call, and for the next one what it deserves.
  void ExpectHarmsOneEpisode(const std::string& response, v1::Outcome outcome,
                             const std::string& why) {
    const v1::EnvironmentServiceScoreResponse score = Score(Named("wicked", 0), response);
    EXPECT_EQ(score.outcome(), outcome) << response << ": " << score.reason();
    EXPECT_FALSE(score.has_reward()) << response;
    EXPECT_THAT(score.reason(), HasSubstr(why)) << response;
    EXPECT_EQ(Score(Named("wicked", 0), "fine").reward(), 1) << "after " << response;
  }

  Metrics metrics_{"env", "0", SystemClock()};
  std::unique_ptr<WorkerTasks> workers_;
  std::unique_ptr<EnvironmentServer> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<EnvironmentService::Stub> stub_;
};

TEST_F(WorkersTest, WhateverAnEnvironmentDoesItHarmsOneEpisodeAndIsNeverAReward) {
  std::vector<std::string> lines;
  absl::Mutex mu;
  const ScopedLogSink sink([&](const std::string& line) {
    absl::MutexLock lock(&mu);
    lines.push_back(line);
  });
  Serve("tests/integration/env/wicked.py");
  ExpectHarmsOneEpisode("raise", v1::OUTCOME_TASK_FAILED, "ZeroDivisionError");
  ExpectHarmsOneEpisode("library", v1::OUTCOME_TASK_FAILED, "NotImplementedError");
  ExpectHarmsOneEpisode("nan", v1::OUTCOME_TASK_FAILED, "not finite");
  ExpectHarmsOneEpisode("text", v1::OUTCOME_TASK_FAILED, "ValueError");
  ExpectHarmsOneEpisode("recurse", v1::OUTCOME_TASK_FAILED, "RecursionError");
  ExpectHarmsOneEpisode("hang", v1::OUTCOME_INFRA_FAILED, "it gave no answer in 2s");
  ExpectHarmsOneEpisode("leak", v1::OUTCOME_INFRA_FAILED, "MemoryError");
  ExpectHarmsOneEpisode("exit", v1::OUTCOME_INFRA_FAILED,
                        "exit code 0, last line: \"\\xff\\xfe bye\"");
  ExpectHarmsOneEpisode("kill", v1::OUTCOME_INFRA_FAILED, "signal 9");
  ExpectHarmsOneEpisode("write", v1::OUTCOME_INFRA_FAILED, "worker mine");
  EXPECT_EQ(Score(Named("wicked", 0), "print").reward(), 1) << "stdout is no protocol";
  EXPECT_EQ(Score(Named("wicked", 0), "surrogate").reason(), "?");
  workers_->Stop();
  absl::MutexLock lock(&mu);
  EXPECT_THAT(lines, Contains(HasSubstr("rubbish")));
}

TEST_F(WorkersTest, ARaisedResetNamesItsReasonAndBuiltInTasksGoOn) {
  Serve("tests/integration/env/wicked.py");
  v1::ResetResponse response;
  const grpc::Status status = Reset(Named("wicked", 13), response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INTERNAL);
  EXPECT_THAT(status.error_message(), HasSubstr("LookupError: no luck (wicked.py:"));
  EXPECT_TRUE(Reset(Named("wicked", 14), response).ok());
  EXPECT_TRUE(Reset(Named("registers", 13), response).ok());
  EXPECT_THAT(Reset(Named("nothing", 0), response).error_message(), HasSubstr("wicked"));
}

TEST_F(WorkersTest, AFileOfThirtyLinesIsAnEnvironment) {
  Serve("services/env/python/examples/reverse.py");
  std::map<std::string, std::set<v1::Split>> owners;
  for (const v1::Split split : {v1::SPLIT_TRAIN, v1::SPLIT_SFT, v1::SPLIT_HELDOUT}) {
    for (int i = 0; i < 50; ++i) {
      const v1::Episode episode = Named("reverse", i, split);
      v1::ResetResponse reset;
      ASSERT_TRUE(Reset(episode, reset).ok());
      ASSERT_EQ(reset.text().size(), 7u);
      owners[reset.text()].insert(split);
      const std::string right(reset.text().rbegin() + 1, reset.text().rend());
      EXPECT_EQ(Score(episode, right + "$").reward(), 1);
      EXPECT_LT(Score(episode, reset.text()).reward(), 1);
    }
  }
  for (const auto& [text, splits] : owners) EXPECT_EQ(splits.size(), 1u) << text;
  v1::DemonstrateRequest request;
  *request.mutable_episode() = Named("reverse", 3);
  v1::DemonstrateResponse shown;
  ASSERT_TRUE(stub_->Demonstrate(MakeContext({}).get(), request, &shown).ok());
  EXPECT_EQ(Score(Named("reverse", 3), shown.response_text()).reward(), 1);
  v1::StepResponse step;
  EXPECT_EQ(Step(Named("reverse", 3), "x", step).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
}

TEST_F(WorkersTest, AMultiTurnEpisodeIsItsStateAndGoesOnInAnyProcess) {
  Serve("services/env/python/examples/guess.py");
  v1::ListTasksResponse tasks;
  ASSERT_TRUE(stub_->ListTasks(MakeContext({}).get(), {}, &tasks).ok());
  const auto guess_task = std::find_if(tasks.tasks().begin(), tasks.tasks().end(),
                                       [](const auto& task) { return task.name() == "guess"; });
  ASSERT_NE(guess_task, tasks.tasks().end());
  EXPECT_TRUE(guess_task->multi_turn());
  EXPECT_EQ(guess_task->max_turns(), 10);
  v1::ResetResponse reset;
  ASSERT_TRUE(Reset(Named("guess", 5), reset).ok());
  EXPECT_EQ(reset.chat().messages(0).role(), "user");
  v1::Episode episode = reset.episode();
  v1::StepResponse turn, again;
  int low = 1, high = 1000;
  while (!turn.done()) {
    const int guess = (low + high) / 2;
    const v1::Episode before = episode;
    ASSERT_TRUE(Step(before, absl::StrFormat("is it %d?", guess), turn).ok());
    ASSERT_TRUE(Step(before, absl::StrFormat("is it %d?", guess), again).ok());
    EXPECT_EQ(turn.SerializeAsString(), again.SerializeAsString());
    if (!turn.done()) (turn.messages(0).content() == "higher" ? low : high) = guess;
    if (!turn.done() && low == guess) ++low;
    episode = turn.episode();
  }
  EXPECT_EQ(Score(episode, "").reward(), 1);
  EXPECT_EQ(Score(Named("guess", 5), "").reward(), 0) << "nothing was guessed yet";
  v1::EnvironmentServiceScoreRequest request;
  *request.mutable_episode() = episode;
  request.set_response_text("500");
  request.set_outcome(v1::OUTCOME_OK);
  v1::EnvironmentServiceScoreResponse score;
  EXPECT_THAT(stub_->Score(MakeContext({}).get(), request, &score).error_message(),
              HasSubstr("are stepped"));
  episode.set_state("{not json");
  EXPECT_EQ(Step(episode, "1", turn).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
}

}  // namespace
}  // namespace palimpsest::env
