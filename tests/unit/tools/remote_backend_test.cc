#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include "common/rpc/server.h"
#include "common/wire/context.h"
#include "common/wire/rollout.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tools/backend.h"

namespace palimpsest::tools {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

rl::Rollout ARollout() {
  rl::Rollout rollout{.id = "r", .tokens = {1, 2, 3}, .prompt_tokens = 2};
  rollout.origins = {rl::Origin::kPrompt, rl::Origin::kPrompt, rl::Origin::kSampled};
  rollout.logprobs = {0, 0, -0.5F};
  rollout.spans = {{2, 3, PolicyVersion(4), 0}};
  return rollout;
}

// Remembers what it was asked; answers as it is told.
class ScriptedInference final : public v1::InferenceService::Service {
 public:
  grpc::Status GetServerInfo(grpc::ServerContext*,
                             const v1::InferenceServiceGetServerInfoRequest* request,
                             v1::InferenceServiceGetServerInfoResponse* response) override {
    asked_revision = request->revision();
    response->mutable_server()->set_revision(revision);
    if (max_position > 0) response->mutable_model()->set_max_position(max_position);
    return grpc::Status::OK;
  }
  grpc::Status Generate(grpc::ServerContext*, const v1::GenerateRequest* request,
                        grpc::ServerWriter<v1::GenerateResponse>* writer) override {
    generate = *request;
    for (const v1::GenerateResponse& response : stream) writer->Write(response);
    return end;
  }
  grpc::Status Score(grpc::ServerContext*, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override {
    score = *request;
    response->add_logprobs(-1.5);
    response->set_policy_version(6);
    return grpc::Status::OK;
  }
  grpc::Status Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override {
    chat = request->chat();
    for (const char c : request->text()) response->add_ids(c);
    if (request->has_chat()) response->add_ids(chat.messages_size());
    return grpc::Status::OK;
  }
  grpc::Status Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override {
    for (const int32_t id : request->ids()) response->mutable_text()->push_back(char(id));
    return grpc::Status::OK;
  }

  int revision = v1::CONTRACT_REVISION_CURRENT, asked_revision = 0, max_position = 99;
  std::vector<v1::GenerateResponse> stream;
  grpc::Status end;
  v1::GenerateRequest generate;
  v1::ScoreRequest score;
  v1::ChatPrompt chat;
};

class RemoteBackendTest : public ::testing::Test {
 protected:
  ScriptedInference service_;
  Metrics metrics_{"test", "0", SystemClock()};
  std::unique_ptr<RpcServer> server_ =
      RpcServer::Start({}, {&service_}, metrics_, SystemClock()).value();
  std::unique_ptr<Backend> backend_ = MakeRemoteBackend(server_->address()).value();
};

TEST_F(RemoteBackendTest, TextGoesThereAndBack) {
  EXPECT_THAT(*backend_->Encode("ab", false), ElementsAre('a', 'b'));
  EXPECT_EQ(*backend_->Decode({'a', 'b'}, false), "ab");
  EXPECT_EQ(service_.asked_revision, v1::CONTRACT_REVISION_CURRENT);
  EXPECT_THAT(backend_->Encode("\xff", false).status().message(), HasSubstr("UTF-8"));
}

TEST_F(RemoteBackendTest, AConversationIsSentAsItIs) {
  const Chat chat{.messages = {{"user", "a"}, {"assistant", "b", "c"}},
                  .add_generation_prompt = false,
                  .enable_thinking = true,
                  .date_string = "1 May"};
  EXPECT_THAT(*backend_->EncodeChat(chat), ElementsAre(2));
  EXPECT_EQ(service_.chat.messages(0).role(), "user");
  EXPECT_FALSE(service_.chat.messages(0).has_reasoning_content());
  EXPECT_EQ(service_.chat.messages(1).content(), "b");
  EXPECT_EQ(service_.chat.messages(1).reasoning_content(), "c");
  EXPECT_TRUE(service_.chat.has_add_generation_prompt());
  EXPECT_FALSE(service_.chat.add_generation_prompt());
  EXPECT_TRUE(service_.chat.enable_thinking());
  EXPECT_EQ(service_.chat.date_string(), "1 May");
  ASSERT_TRUE(backend_->EncodeChat({.messages = {{"user", "a"}}}).ok());
  EXPECT_TRUE(service_.chat.add_generation_prompt());
  EXPECT_FALSE(service_.chat.has_enable_thinking());
}

TEST_F(RemoteBackendTest, APeerOfAnotherRevisionIsRefused) {
  service_.revision = 77;
  EXPECT_THAT(backend_->Encode("ab", false).status().message(), HasSubstr("revision=77"));
}

TEST_F(RemoteBackendTest, GenerateSendsWhatWasAskedAndReturnsTheRollout) {
  service_.stream.resize(2);
  service_.stream[0].mutable_accepted()->set_request_id("x");
  *service_.stream[1].mutable_finished()->mutable_rollout() = wire::ToProto(ARollout());
  GenerateAsk ask{.prompt = {1, 2}};
  ask.sampling.max_tokens = 9;
  ask.sampling.seed = 5;
  ask.context.trigger = context::KvBudget{.budget = 30, .window = 8, .keep_ratio = 0.5};
  const absl::StatusOr<rl::Rollout> rollout = backend_->Generate(ask);
  ASSERT_TRUE(rollout.ok()) << rollout.status();
  EXPECT_EQ(*rollout, ARollout());
  EXPECT_THAT(service_.generate.prompt_ids().ids(), ElementsAre(1, 2));
  EXPECT_EQ(service_.generate.sampling().max_tokens(), 9);
  EXPECT_EQ(service_.generate.sampling().seed(), 5);
  EXPECT_EQ(*wire::FromProto(service_.generate.context()), ask.context);
  EXPECT_FALSE(service_.generate.request_id().empty());
}

TEST_F(RemoteBackendTest, AGenerationThatFailsIsAnError) {
  service_.stream.resize(1);
  service_.stream[0].mutable_error()->set_code(8);
  service_.stream[0].mutable_error()->set_message("no room");
  absl::Status status = backend_->Generate({.prompt = {1}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted);
  EXPECT_EQ(status.message(), "no room");
  service_.stream.clear();
  EXPECT_EQ(backend_->Generate({.prompt = {1}}).status().code(), absl::StatusCode::kUnavailable);
  service_.end = grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "sampling.seed");
  status = backend_->Generate({.prompt = {1}}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(RemoteBackendTest, ScoreSendsTheLog) {
  context::Event event{.at = 4, .window = {0, 3}, .reference = {1, 4}};
  event.kept = context::KeptPositions({1, 1});
  event.kept.AddHead(std::vector<int32_t>{2});
  const auto scored = backend_->Score({.ids = {1, 2}, .events = {event}, .temperature = 0.5});
  ASSERT_TRUE(scored.ok()) << scored.status();
  EXPECT_THAT(scored->logprobs, ElementsAre(-1.5F));
  EXPECT_EQ(scored->version, PolicyVersion(6));
  EXPECT_FALSE(service_.score.has_min_policy_version());
  EXPECT_EQ(service_.score.temperature(), 0.5);
  ASSERT_EQ(service_.score.events_size(), 1);
  EXPECT_EQ(*wire::FromProto(service_.score.events(0)), event);
}

TEST_F(RemoteBackendTest, TheLeastVersionGoesWithEveryRequestForWeights) {
  const auto backend = MakeRemoteBackend(server_->address(), 5).value();
  ASSERT_TRUE(backend->Score({.ids = {1, 2}}).ok());
  EXPECT_EQ(service_.score.min_policy_version(), 5);
  backend->Generate({.prompt = {1}}).IgnoreError();
  EXPECT_EQ(service_.generate.min_policy_version(), 5);
}

TEST_F(RemoteBackendTest, AServerWithoutWeightsIsAskedForNothing) {
  service_.max_position = 0;  // no weights yet
  const auto early = MakeRemoteBackend(server_->address()).value();
  EXPECT_TRUE(absl::IsUnavailable(early->Score({.ids = {1, 2}}).status()));
}

TEST_F(RemoteBackendTest, APlaceWithoutAPortOrWithAnImpossibleOneIsRefused) {
  for (const char* place : {"localhost", "127.0.0.1:98905", "127.0.0.1:0", ":80"}) {
    const absl::Status refused = MakeRemoteBackend(place).status();
    EXPECT_TRUE(absl::IsInvalidArgument(refused)) << place << ": " << refused;
    EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("--server")) << place;
  }
}

}  // namespace
}  // namespace palimpsest::tools
