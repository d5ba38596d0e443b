#include "services/env/server/environment_service.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "common/rpc/channel.h"
#include "common/rpc/server.h"

namespace palimpsest::env {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using v1::EnvironmentService;

// Over loopback: what a caller in another process sees.
class EnvironmentServiceTest : public ::testing::Test {
 protected:
  EnvironmentServiceTest()
      : workers_(WorkerTasks::Start({}, {}, nullptr, metrics_).value()),
        service_(BuiltInEnvironments({}).value(), *workers_, {"a-run", 3}, metrics_, SystemClock()),
        server_(RpcServer::Start({}, {&service_}, metrics_, SystemClock()).value()),
        stub_(EnvironmentService::NewStub(MakeChannel(server_->address(), {}).value())) {}

  template <class Request, class Response>
  using Method = grpc::Status (EnvironmentService::Stub::*)(grpc::ClientContext*, const Request&,
                                                            Response*);
  template <class Request, class Response>
  grpc::Status Call(Method<Request, Response> method, const Request& request, Response& response) {
    return (stub_.get()->*method)(MakeContext({}).get(), request, &response);
  }
  grpc::Status Score(const v1::Episode& episode, const std::string& text,
                     v1::EnvironmentServiceScoreResponse& response,
                     v1::Outcome outcome = v1::OUTCOME_OK) {
    v1::EnvironmentServiceScoreRequest request;
    *request.mutable_episode() = episode;
    request.set_response_text(text);
    request.set_outcome(outcome);
    return Call(&EnvironmentService::Stub::Score, request, response);
  }
  grpc::Status Demonstrate(const v1::Episode& episode, double noise, std::string& text) {
    v1::DemonstrateRequest request;
    *request.mutable_episode() = episode;
    request.set_answer_noise(noise);
    v1::DemonstrateResponse response;
    const grpc::Status status = Call(&EnvironmentService::Stub::Demonstrate, request, response);
    text = response.response_text();
    return status;
  }
  static v1::Episode Registers(int64_t index = 0, v1::Split split = v1::SPLIT_TRAIN) {
    v1::Episode episode;
    episode.set_task("registers");
    episode.set_split(split);
    episode.set_seed(5);
    episode.set_index(index);
    return episode;
  }

  Metrics metrics_{"env", "0", SystemClock()};
  std::unique_ptr<WorkerTasks> workers_;
  EnvironmentServer service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<EnvironmentService::Stub> stub_;
};

TEST_F(EnvironmentServiceTest, SaysWhoItIsAndRefusesAnotherRevision) {
  v1::EnvironmentServiceGetServerInfoRequest request;
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  v1::EnvironmentServiceGetServerInfoResponse response;
  ASSERT_TRUE(Call(&EnvironmentService::Stub::GetServerInfo, request, response).ok());
  EXPECT_EQ(response.server().role(), "env");
  EXPECT_EQ(response.server().rank(), 3);
  EXPECT_EQ(response.server().run(), "a-run");
  request.set_revision(99);
  const grpc::Status status = Call(&EnvironmentService::Stub::GetServerInfo, request, response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("revision=99"));
}

TEST_F(EnvironmentServiceTest, ListsItsTasks) {
  v1::ListTasksResponse response;
  ASSERT_TRUE(Call(&EnvironmentService::Stub::ListTasks, v1::ListTasksRequest(), response).ok());
  ASSERT_EQ(response.tasks_size(), 3);
  EXPECT_EQ(response.tasks(0).name(), "countdown");
  EXPECT_EQ(response.tasks(1).name(), "registers");
  EXPECT_TRUE(response.tasks(1).demonstrates());
  EXPECT_FALSE(response.tasks(1).multi_turn());
  EXPECT_EQ(response.tasks(1).max_response(), 154);
  EXPECT_EQ(response.tasks(1).max_turns(), 0);
  EXPECT_EQ(response.tasks(2).name(), "tally");
  EXPECT_TRUE(response.tasks(2).multi_turn());
  EXPECT_EQ(response.tasks(2).max_turns(), 13);
}

TEST_F(EnvironmentServiceTest, APromptIsAPureFunctionOfItsEpisode) {
  v1::ResetRequest request;
  request.set_task("registers");
  request.set_split(v1::SPLIT_HELDOUT);
  request.set_seed(5);
  request.set_index(17);
  v1::ResetResponse first, second;
  ASSERT_TRUE(Call(&EnvironmentService::Stub::Reset, request, first).ok());
  ASSERT_TRUE(Call(&EnvironmentService::Stub::Reset, request, second).ok());
  EXPECT_EQ(first.SerializeAsString(), second.SerializeAsString());
  EXPECT_EQ(first.text().size(), 16u);
  EXPECT_EQ(first.max_response(), 154);
  EXPECT_THAT(first.stops(), ElementsAre("$"));
  EXPECT_EQ(first.tags_size(), first.text()[1] == 'F' ? 1 : 0);
  EXPECT_EQ(first.episode().index(), 17);
}

TEST_F(EnvironmentServiceTest, ACleanDemonstrationScoresOne) {
  std::string text;
  ASSERT_TRUE(Demonstrate(Registers(), 0, text).ok());
  v1::EnvironmentServiceScoreResponse score;
  ASSERT_TRUE(Score(Registers(), text, score).ok());
  EXPECT_EQ(score.reward(), 1);
  EXPECT_EQ(score.outcome(), v1::OUTCOME_OK);
  EXPECT_GT(score.parts_size(), 0);
}

TEST_F(EnvironmentServiceTest, NoiseSpoilsTheAnswerButNotTheLines) {
  double total = 0;
  for (int i = 0; i < 40; ++i) {
    std::string text;
    ASSERT_TRUE(Demonstrate(Registers(i), 0.6, text).ok());
    v1::EnvironmentServiceScoreResponse score;
    ASSERT_TRUE(Score(Registers(i), text, score).ok());
    EXPECT_GE(score.reward(), 0.3 - 1e-9);
    total += score.reward();
  }
  // 0.3 + 0.7 * (1 - 0.9 * 0.6) = 0.622; the standard error of 160 digits is 0.028.
  EXPECT_NEAR(total / 40, 0.622, 0.1);
}

TEST_F(EnvironmentServiceTest, AWrongResponseIsAScoreWithAReason) {
  v1::EnvironmentServiceScoreResponse score;
  ASSERT_TRUE(Score(Registers(), "nonsense", score, v1::OUTCOME_TRUNCATED).ok());
  EXPECT_TRUE(score.has_reward());
  EXPECT_EQ(score.reward(), 0);
  EXPECT_FALSE(score.reason().empty());
}

TEST_F(EnvironmentServiceTest, WhatCannotBeJudgedIsAnErrorAndNoReward) {
  v1::EnvironmentServiceScoreResponse score;
  v1::Episode episode = Registers();
  episode.set_task("no-such-task");
  grpc::Status status = Score(episode, "x", score);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::NOT_FOUND);
  EXPECT_FALSE(score.has_reward());
  status = Score(Registers(-1), "x", score);
  EXPECT_THAT(status.error_message(), HasSubstr("index=-1"));
  status = Score(Registers(0, v1::SPLIT_UNSPECIFIED), "x", score);
  EXPECT_THAT(status.error_message(), HasSubstr("episode.split=0"));
  episode = Registers();
  episode.set_state("abc");
  status = Score(episode, "x", score);
  EXPECT_THAT(status.error_message(), HasSubstr("episode.state"));
  status = Score(Registers(), "x", score, v1::OUTCOME_INFRA_FAILED);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("outcome=4"));
  status = Score(Registers(), std::string((1 << 20) + 1, 'x'), score);
  EXPECT_THAT(status.error_message(), HasSubstr("response_text"));
  EXPECT_FALSE(score.has_reward());
}

TEST_F(EnvironmentServiceTest, ImpossibleNoiseIsRefused) {
  std::string text;
  EXPECT_THAT(Demonstrate(Registers(), 1.5, text).error_message(), HasSubstr("answer_noise=1.5"));
  EXPECT_THAT(Demonstrate(Registers(), -0.1, text).error_message(), HasSubstr("answer_noise"));
}

TEST_F(EnvironmentServiceTest, SingleTurnTasksAreNotStepped) {
  v1::StepRequest request;
  *request.mutable_episode() = Registers();
  v1::StepResponse response;
  const grpc::Status status = Call(&EnvironmentService::Stub::Step, request, response);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(status.error_message(), HasSubstr("single-turn"));
}

// All that happened is in the episode that goes to and fro.
TEST_F(EnvironmentServiceTest, ATaskOfSeveralTurnsIsSteppedAndThenScoredByItsState) {
  v1::ResetRequest request;
  request.set_task("tally");
  request.set_split(v1::SPLIT_HELDOUT);
  v1::ResetResponse start;
  ASSERT_TRUE(Call(&EnvironmentService::Stub::Reset, request, start).ok());
  EXPECT_EQ(start.max_turns(), 13);
  v1::StepRequest step;
  *step.mutable_episode() = start.episode();
  v1::StepResponse turn;
  for (int i = 0; i < start.max_turns(); ++i) {
    std::string text;
    ASSERT_TRUE(Demonstrate(step.episode(), 0, text).ok());
    step.set_response_text(text);
    ASSERT_TRUE(Call(&EnvironmentService::Stub::Step, step, turn).ok());
    EXPECT_EQ(turn.done(), i + 1 == start.max_turns());
    EXPECT_EQ(turn.messages_size(), turn.done() ? 0 : 1);
    *step.mutable_episode() = turn.episode();
  }
  v1::EnvironmentServiceScoreResponse score;
  ASSERT_TRUE(Score(turn.episode(), "", score).ok());
  EXPECT_EQ(score.reward(), 1);
  EXPECT_EQ(Call(&EnvironmentService::Stub::Step, step, turn).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(Score(step.episode(), "x", score).error_message(), HasSubstr("are stepped"));
}

}  // namespace
}  // namespace palimpsest::env
