#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <filesystem>
#include <set>

#include "common/rpc/server.h"
#include "common/telemetry/log.h"
#include "common/wire/rollout.h"
#include "services/orchestrator/server/env_client.h"
#include "services/orchestrator/server/inference_client.h"
#include "services/orchestrator/server/messages.h"

namespace palimpsest::orchestrator {
namespace {

rl::Rollout SomeRollout() {
  rl::Rollout rollout;
  rollout.id = "r";
  rollout.tokens = {1, 2, 3};
  rollout.prompt_tokens = 1;
  rollout.origins = {rl::Origin::kPrompt, rl::Origin::kSampled, rl::Origin::kSampled};
  rollout.logprobs = {0, -1, -2};
  rollout.spans = {{1, 3, PolicyVersion(4), 0}};
  return rollout;
}

TEST(SampleCollectorTest, EverySampleEndsExactlyOnce) {
  SampleCollector collector(4, 3);
  v1::GenerateResponse finished, error, foreign;
  finished.mutable_finished()->set_sample(5);
  *finished.mutable_finished()->mutable_rollout() = wire::ToProto(SomeRollout());
  finished.mutable_finished()->set_text("x");
  error.mutable_error()->set_sample(4);
  error.mutable_error()->set_code(14);
  error.mutable_error()->set_outcome(v1::OUTCOME_CANCELLED);
  foreign.mutable_finished()->set_sample(9);
  for (const auto& response : {finished, error, foreign}) collector.Take(response);
  const std::vector<Sample> samples =
      std::move(collector).Finish(absl::UnavailableError("the stream broke"));
  ASSERT_EQ(samples.size(), 3u);
  EXPECT_EQ(samples[0].outcome, rl::Outcome::kCancelled);
  EXPECT_TRUE(absl::IsUnavailable(samples[0].status));
  EXPECT_EQ(samples[1].rollout, SomeRollout());
  EXPECT_EQ(samples[1].text, "x");
  EXPECT_EQ(samples[2].sample, 6);
  EXPECT_EQ(samples[2].outcome, rl::Outcome::kInfraFailed);
}

TEST(SampleCollectorTest, AFailureBringsWhatThereWasUnlessThatIsBroken) {
  SampleCollector collector(0, 2);
  for (const int sample : {0, 1}) {
    v1::GenerateResponse error;
    error.mutable_error()->set_sample(sample);
    error.mutable_error()->set_code(1);
    error.mutable_error()->set_outcome(v1::OUTCOME_CANCELLED);
    *error.mutable_error()->mutable_partial() = wire::ToProto(SomeRollout());
    if (sample == 1) error.mutable_error()->mutable_partial()->clear_spans();
    collector.Take(error);
  }
  const std::vector<Sample> samples = std::move(collector).Finish(absl::OkStatus());
  EXPECT_TRUE(absl::IsCancelled(samples[0].status));
  EXPECT_EQ(samples[0].rollout, SomeRollout());
  EXPECT_TRUE(samples[1].rollout.tokens.empty());
}

TEST(SampleCollectorTest, ABrokenRolloutIsAFailureOfInfrastructure) {
  SampleCollector collector(0, 1);
  v1::GenerateResponse finished;
  *finished.mutable_finished()->mutable_rollout() = wire::ToProto(SomeRollout());
  finished.mutable_finished()->mutable_rollout()->clear_logprobs();
  collector.Take(finished);
  const std::vector<Sample> samples = std::move(collector).Finish(absl::OkStatus());
  EXPECT_EQ(samples[0].outcome, rl::Outcome::kInfraFailed);
  EXPECT_FALSE(samples[0].status.ok());
}

TEST(CodecTest, DecodeIsTheInverseAndRefusesWhatIsNoRollout) {
  const WireRolloutCodec codec;
  const auto decoded = codec.Decode(codec.Encode(SomeRollout()));
  ASSERT_TRUE(decoded.ok());
  EXPECT_EQ(*decoded, SomeRollout());
  EXPECT_FALSE(codec.Decode("\xff\xff").ok());
}

TEST(BatchMessageTest, CarriesRateContextAndMasks) {
  TrainBatch batch{.id = "b", .step = 3, .learning_rate = 0.5};
  batch.context.trigger = context::KvBudget{56, 28, 0.43};
  batch.sft = {{"d", {1, 2, 3}, {false, false, true}, 2}};
  const v1::TrainBatchRequest request = BatchToProto(batch);
  EXPECT_EQ(request.kind(), v1::BATCH_KIND_SFT);
  EXPECT_EQ(request.learning_rate(), 0.5);
  EXPECT_EQ(request.items(0).sft().context().kv_budget().budget(), 56);
  EXPECT_FALSE(request.items(0).sft().loss_mask(0));
  EXPECT_TRUE(request.items(0).sft().loss_mask(2));
}

TEST(BatchMessageTest, WhatWasReplayedComesBackAndContradictionsAreRefusedByName) {
  const TrainBatch batch{.id = "b", .step = 3, .rl = {{.rollout = SomeRollout()}}};
  v1::TrainBatchResponse response;
  EXPECT_TRUE(ResultFromProto(response, batch)->replayed.empty());
  v1::ReplayedRollout& replayed = *response.add_replayed();
  replayed.set_rollout_id("r");
  for (const float logprob : {-1.5f, -2.5f}) replayed.add_logprobs(logprob);
  const auto result = ResultFromProto(response, batch);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->replayed, (std::vector<rl::Replayed>{{"r", {-1.5f, -2.5f}}}));
  replayed.add_logprobs(-3);
  const absl::Status refused = ResultFromProto(response, batch).status();
  EXPECT_TRUE(absl::IsInternal(refused));
  EXPECT_THAT(std::string(refused.message()),
              testing::HasSubstr("trainer: replayed[0].logprobs: 3 entries for 2 sampled tokens"));
}

class FakeEnvService final : public v1::EnvironmentService::Service {
 public:
  explicit FakeEnvService(std::string says) : says_(std::move(says)) {}
  int revision = v1::CONTRACT_REVISION_CURRENT;
  std::atomic<bool> silent = false;  // a demonstration takes three seconds

  grpc::Status GetServerInfo(grpc::ServerContext*,
                             const v1::EnvironmentServiceGetServerInfoRequest*,
                             v1::EnvironmentServiceGetServerInfoResponse* response) override {
    response->mutable_server()->set_revision(revision);
    response->mutable_server()->set_role("env");
    return grpc::Status::OK;
  }
  grpc::Status Demonstrate(grpc::ServerContext*, const v1::DemonstrateRequest* request,
                           v1::DemonstrateResponse* response) override {
    if (silent) SystemClock().SleepFor(absl::Seconds(3));
    response->set_response_text(says_ + std::to_string(request->answer_noise()));
    return grpc::Status::OK;
  }
  grpc::Status Reset(grpc::ServerContext*, const v1::ResetRequest*,
                     v1::ResetResponse* response) override {
    v1::ChatMessage& message = *response->mutable_chat()->add_messages();
    message.set_role("user");
    message.set_content("look");
    response->set_max_turns(9);
    return grpc::Status::OK;
  }
  grpc::Status Step(grpc::ServerContext*, const v1::StepRequest* request,
                    v1::StepResponse* response) override {
    *response->mutable_episode() = request->episode();
    response->mutable_episode()->set_state(request->episode().state() + request->response_text());
    v1::ChatMessage& message = *response->add_messages();
    message.set_role("tool");
    message.set_content("a wall");
    return grpc::Status::OK;
  }
  grpc::Status Score(grpc::ServerContext*, const v1::EnvironmentServiceScoreRequest*,
                     v1::EnvironmentServiceScoreResponse* response) override {
    response->set_outcome(v1::OUTCOME_OK);
    if (!part) return grpc::Status::OK;  // and no reward
    response->set_reward(0.5);
    v1::RewardPart& named = *response->add_parts();
    named.set_name("strict");
    named.set_value(*part);
    return grpc::Status::OK;
  }
  std::optional<double> part;

 private:
  std::string says_;
};

class PeerTest : public testing::Test {
 protected:
  PeerTest()
      : folder_(testing::TempDir() + "/peer-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()),
        client_(1, {.run_folder = folder_, .run = "run", .call = absl::Seconds(5)}) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~PeerTest() override { std::filesystem::remove_all(folder_); }

  std::unique_ptr<RpcServer> Start(FakeEnvService& service, int64_t pid) {
    auto server = RpcServer::Start({}, {&service}, metrics_, SystemClock());
    EXPECT_TRUE(server.ok()) << server.status();
    EXPECT_TRUE(WriteAddress(folder_, "env", 0, {(*server)->address(), pid}).ok());
    return *std::move(server);
  }

  std::string folder_;
  Metrics metrics_{"orchestrator", "test", SystemClock()};
  GrpcEnvClient client_;
};

TEST_F(PeerTest, IsUnavailableUntilItHasAnAddress) {
  EXPECT_TRUE(absl::IsUnavailable(client_.Demonstrate({}, 0).status()));
  EXPECT_FALSE(client_.Facts()[0].ready);
}

TEST_F(PeerTest, IsFoundAgainWhereItWasRestarted) {
  FakeEnvService first("first"), second("second");
  auto server = Start(first, 1);
  EXPECT_EQ(*client_.Demonstrate({}, 0.5), "first0.500000");
  server = nullptr;
  server = Start(second, 2);
  // The first call after it went away may tell so; the next one finds the other.
  absl::StatusOr<std::string> answer = client_.Demonstrate({}, 0);
  if (absl::IsUnavailable(answer.status())) answer = client_.Demonstrate({}, 0);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(*answer, "second0.000000");
}

// As behind a connection that is half open: there is no error, and no answer either.
TEST_F(PeerTest, WhoGivesNoAnswerWithinTheDeadlineIsLookedForAgain) {
  FakeEnvService first("first"), second("second");
  GrpcEnvClient client(1, {.run_folder = folder_, .run = "run", .env_call = absl::Seconds(2)});
  const auto old = Start(first, 1);
  ASSERT_EQ(*client.Demonstrate({}, 0), "first0.000000");
  first.silent = true;
  const auto fresh = Start(second, 2);
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Demonstrate({}, 0).status()));
  const absl::StatusOr<std::string> answer = client.Demonstrate({}, 0);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(*answer, "second0.000000");
}

TEST_F(PeerTest, AnotherRevisionIsRefusedWithBothNumbers) {
  FakeEnvService service("x");
  service.revision = 99;
  const auto server = Start(service, 1);
  const absl::Status status = client_.Demonstrate({}, 0).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(status));
  EXPECT_THAT(std::string(status.message()), testing::HasSubstr("env.revision=99"));
}

TEST_F(PeerTest, ConversationsAndTurnsComeAsTheyAre) {
  FakeEnvService service("x");
  const auto server = Start(service, 1);
  const auto prompt = client_.Reset({.task = "t"});
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  EXPECT_EQ(prompt->messages, (std::vector<Message>{{"user", "look"}}));
  EXPECT_EQ(prompt->max_turns, 9);
  const auto turn = client_.Step({.task = "t", .index = 4, .state = "ab"}, "c");
  ASSERT_TRUE(turn.ok()) << turn.status();
  EXPECT_EQ(turn->episode.state, "abc");
  EXPECT_EQ(turn->episode.index, 4);
  EXPECT_EQ(turn->messages, (std::vector<Message>{{"tool", "a wall"}}));
  EXPECT_FALSE(turn->done);
}

TEST_F(PeerTest, AVerdictWithoutRewardIsAnErrorAndNoZero) {
  FakeEnvService service("x");
  const auto server = Start(service, 1);
  EXPECT_TRUE(absl::IsInternal(client_.Score({}, "y").status()));
}

TEST_F(PeerTest, PartsOfARewardComeWithItAndMustBeNumbers) {
  FakeEnvService service("x");
  const auto server = Start(service, 1);
  service.part = 0.25;
  const absl::StatusOr<Verdict> verdict = client_.Score({}, "y");
  ASSERT_TRUE(verdict.ok()) << verdict.status();
  EXPECT_EQ(verdict->reward, 0.5);
  EXPECT_EQ(verdict->parts, (std::map<std::string, double>{{"strict", 0.25}}));
  service.part = NAN;
  EXPECT_THAT(std::string(client_.Score({}, "y").status().message()),
              testing::HasSubstr("score.parts.strict"));
}

class FakeInferenceService final : public v1::InferenceService::Service {
 public:
  int updates = 0;
  grpc::Status answer = grpc::Status::OK;

  grpc::Status GetServerInfo(grpc::ServerContext*, const v1::InferenceServiceGetServerInfoRequest*,
                             v1::InferenceServiceGetServerInfoResponse* response) override {
    response->mutable_server()->set_revision(v1::CONTRACT_REVISION_CURRENT);
    response->mutable_server()->set_role("inference");
    response->set_state(v1::SERVING_STATE_SERVING);
    response->mutable_model()->set_layers(7);
    return grpc::Status::OK;
  }
  grpc::Status UpdateWeights(grpc::ServerContext*, const v1::UpdateWeightsRequest*,
                             v1::UpdateWeightsResponse*) override {
    ++updates;
    return answer;
  }
  grpc::Status AbortAll(grpc::ServerContext*, const v1::AbortAllRequest*,
                        v1::AbortAllResponse*) override {
    return grpc::Status::OK;
  }
  grpc::Status CreateSession(grpc::ServerContext*, const v1::CreateSessionRequest* request,
                             v1::CreateSessionResponse* response) override {
    created = *request;
    response->mutable_session()->set_session_id("s" + std::to_string(++sessions));
    open.insert(response->session().session_id());
    return grpc::Status::OK;
  }
  grpc::Status StepSession(grpc::ServerContext*, const v1::StepSessionRequest* request,
                           grpc::ServerWriter<v1::GenerateResponse>* stream) override {
    stepped = *request;
    if (!open.contains(request->session_id())) return {grpc::StatusCode::NOT_FOUND, "gone"};
    v1::GenerateResponse response;
    response.mutable_accepted();
    stream->Write(response);
    if (breaks) return {grpc::StatusCode::UNAVAILABLE, "broken"};
    *response.mutable_finished()->mutable_rollout() = wire::ToProto(SomeRollout());
    response.mutable_finished()->set_text("said");
    stream->Write(response);
    return grpc::Status::OK;
  }
  grpc::Status ListSessions(grpc::ServerContext*, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override {
    EXPECT_EQ(request->client(), "orchestrator");
    if (!open.empty()) response->add_sessions()->set_session_id(*open.begin());
    return grpc::Status::OK;
  }
  grpc::Status DeleteSession(grpc::ServerContext*, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse*) override {
    open.erase(request->session_id());
    return grpc::Status::OK;
  }

  bool breaks = false;  // a stream that has begun
  int sessions = 0;
  std::set<std::string> open;
  v1::CreateSessionRequest created;
  v1::StepSessionRequest stepped;
};

// Two replicas; an address is written for those that are started.
class FleetTest : public testing::Test {
 protected:
  FleetTest()
      : folder_(testing::TempDir() + "/fleet-" +
                testing::UnitTest::GetInstance()->current_test_info()->name()),
        client_(2, {.run_folder = folder_, .run = "run", .call = absl::Seconds(5)}) {
    std::filesystem::remove_all(folder_);
    std::filesystem::create_directories(folder_);
  }
  ~FleetTest() override { std::filesystem::remove_all(folder_); }

  void Start(int rank) {
    auto server =
        RpcServer::Start({}, {&services_[static_cast<size_t>(rank)]}, metrics_, SystemClock());
    ASSERT_TRUE(server.ok()) << server.status();
    ASSERT_TRUE(WriteAddress(folder_, "inference", rank, {(*server)->address(), 1}).ok());
    servers_.push_back(*std::move(server));
  }

  std::string folder_;
  Metrics metrics_{"orchestrator", "test", SystemClock()};
  FakeInferenceService services_[2];
  std::vector<std::unique_ptr<RpcServer>> servers_;
  GrpcInferenceClient client_;
};

TEST_F(FleetTest, AReplicaThatIsAwayDoesNotHoldUpNewWeights) {
  EXPECT_TRUE(absl::IsUnavailable(client_.UpdateWeights({}))) << "but nobody is not enough";
  EXPECT_TRUE(absl::IsUnavailable(client_.Describe().status()));
  Start(1);
  EXPECT_TRUE(client_.UpdateWeights({}).ok());
  EXPECT_EQ(client_.Describe()->layers, 7);
  Start(0);
  EXPECT_TRUE(client_.UpdateWeights({}).ok());
  EXPECT_EQ(services_[0].updates, 1);
  EXPECT_EQ(services_[1].updates, 2);
}

TEST_F(FleetTest, AServerThatCancelsTheCallIsGoingAwayAndAskedAgain) {
  Start(0);
  services_[0].answer = grpc::Status(grpc::StatusCode::CANCELLED, "shutting down");
  const absl::Status status = client_.UpdateWeights({});
  EXPECT_TRUE(absl::IsUnavailable(status)) << status;
  EXPECT_TRUE(MayPass(status));
}

TEST_F(FleetTest, ASessionStaysWithItsReplicaAndALostOneIsAnError) {
  Start(1);
  context::ContextPolicy turns{.trigger = context::Turns{.n_protect_turns = 2}};
  const auto session = client_.CreateSession({.request_id = "c",
                                              .prompt = {1, 2},
                                              .context = turns,
                                              .seed = 9,
                                              .min_version = PolicyVersion(4),
                                              .replica = 2});  // 0, which is away
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->replica, 1u);
  EXPECT_EQ(services_[1].created.context().turns().n_protect_turns(), 2);
  EXPECT_EQ(services_[1].created.min_policy_version(), 4);
  EXPECT_EQ(services_[1].created.seed(), 9u);
  EXPECT_FALSE(services_[1].created.has_begun());
  EXPECT_GT(services_[1].created.ttl_seconds(), 0);
  SessionStep step{.request_id = "t", .session = *session, .expected_tokens = 2, .new_ids = {7}};
  const auto sample = client_.StepSession(step);
  ASSERT_TRUE(sample.ok()) << sample.status();
  EXPECT_EQ(sample->rollout, SomeRollout());
  EXPECT_EQ(sample->text, "said");
  EXPECT_EQ(services_[1].stepped.expected_tokens(), 2);
  EXPECT_EQ(services_[1].stepped.new_ids(0), 7);
  services_[1].breaks = true;
  EXPECT_EQ(client_.StepSession(step)->outcome, rl::Outcome::kInfraFailed);
  client_.DeleteSession(*session);
  EXPECT_TRUE(absl::IsNotFound(client_.StepSession(step).status()));
}

TEST_F(FleetTest, ASessionIsMadeFromALogWhoeverIsThere) {
  Start(1);
  const auto session = client_.CreateSession({.request_id = "c", .begun = SomeRollout()});
  ASSERT_TRUE(session.ok()) << session.status();
  EXPECT_EQ(session->replica, 1u);
  const auto begun = wire::FromProto(services_[1].created.begun());
  ASSERT_TRUE(begun.ok()) << begun.status();
  EXPECT_EQ(*begun, SomeRollout());
}

TEST_F(FleetTest, AbortingEverythingLeavesNoSessionOpen) {
  Start(0);
  Start(1);
  for (size_t i = 0; i < 5; ++i) ASSERT_TRUE(client_.CreateSession({.replica = i}).ok());
  EXPECT_EQ(services_[0].open.size() + services_[1].open.size(), 5u);
  EXPECT_TRUE(client_.AbortAll("a test").ok());
  EXPECT_TRUE(services_[0].open.empty() && services_[1].open.empty());
}

TEST_F(FleetTest, AReplicaThatAnswersMustServeThem) {
  Start(0);
  Start(1);
  services_[1].answer = {grpc::StatusCode::NOT_FOUND, "not visible yet"};
  EXPECT_TRUE(absl::IsNotFound(client_.UpdateWeights({})));
}

}  // namespace
}  // namespace palimpsest::orchestrator
