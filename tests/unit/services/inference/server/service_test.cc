#include "tests/unit/services/inference/server/server_fixture.h"

namespace palimpsest::inference {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

class ServiceTest : public ServerTest {
 protected:
  template <class Method, class Request, class Response>
  grpc::Status Unary(Method method, const Request& request, Response& response) {
    const auto context = Context();
    return (*stub_.*method)(context.get(), request, &response);
  }
};
using Stub = v1::InferenceService::StubInterface;

TEST_F(ServiceTest, ServerInfoTellsWhoIsThereAndRefusesAnotherRevision) {
  StartServer(false);
  v1::InferenceServiceGetServerInfoRequest request;
  v1::InferenceServiceGetServerInfoResponse response;
  EXPECT_EQ(Unary(&Stub::GetServerInfo, request, response).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  ASSERT_TRUE(Unary(&Stub::GetServerInfo, request, response).ok());
  EXPECT_EQ(response.server().role(), "inference");
  EXPECT_EQ(response.state(), v1::SERVING_STATE_STARTING);
  EXPECT_FALSE(response.has_model());
  InstallEngine();
  ASSERT_TRUE(Unary(&Stub::GetServerInfo, request, response).ok());
  EXPECT_EQ(response.state(), v1::SERVING_STATE_SERVING);
  EXPECT_EQ(response.model().vocab(), 300);
  EXPECT_EQ(response.limits().max_samples(), 4);
  EXPECT_EQ(response.policy_version(), 1);
  EXPECT_TRUE(response.has_tokenizer());
  EXPECT_EQ(response.load().kv_bytes_free(), 77);
}

TEST_F(ServiceTest, ScoreGivesTheEnginesLogProbabilities) {
  StartServer();
  v1::ScoreRequest request;
  for (const int id : {5, 6, 7}) request.add_ids(id);
  request.set_temperature(2);
  v1::ScoreResponse response;
  ASSERT_TRUE(Unary(&Stub::Score, request, response).ok());
  EXPECT_THAT(response.logprobs(), ElementsAre(-12, -14));
  EXPECT_EQ(response.policy_version(), 1);
  EXPECT_EQ(response.top_logprobs_size(), 0);
  request.set_top_logprobs(2);
  ASSERT_TRUE(Unary(&Stub::Score, request, response).ok());
  ASSERT_EQ(response.top_logprobs_size(), 2);
  EXPECT_THAT(response.top_logprobs(1).ids(), ElementsAre(7, 8));
  EXPECT_THAT(response.top_logprobs(1).logprobs(), ElementsAre(0, -1));
}

TEST_F(ServiceTest, ScoreRefusalsNameTheField) {
  StartServer();
  const auto refused = [&](const std::function<void(v1::ScoreRequest&)>& breaks) {
    v1::ScoreRequest request;
    for (const int id : {5, 6, 7}) request.add_ids(id);
    breaks(request);
    v1::ScoreResponse response;
    const grpc::Status status = Unary(&Stub::Score, request, response);
    return std::to_string(status.error_code()) + " " + status.error_message();
  };
  EXPECT_THAT(refused([](auto& r) { r.mutable_ids()->Truncate(1); }), StartsWith("3 ids:"));
  EXPECT_THAT(refused([](auto& r) { r.set_ids(2, 300); }), StartsWith("3 ids[2]"));
  EXPECT_THAT(refused([](auto& r) { r.set_temperature(0); }), StartsWith("3 temperature"));
  EXPECT_THAT(refused([](auto& r) { r.add_events(); }), StartsWith("3 events[0]"));
  EXPECT_THAT(refused([](auto& r) { r.set_top_logprobs(-1); }), StartsWith("3 top_logprobs"));
  EXPECT_THAT(refused([](auto& r) { r.set_top_logprobs(101); }), StartsWith("3 top_logprobs"));
  EXPECT_THAT(refused([](auto& r) { r.set_min_policy_version(2); }),
              StartsWith("9 min_policy_version=2"));
}

TEST_F(ServiceTest, TokensGoThereAndBack) {
  StartServer();
  v1::TokenizeRequest text;
  text.set_text("ok");
  v1::TokenizeResponse ids;
  ASSERT_TRUE(Unary(&Stub::Tokenize, text, ids).ok());
  EXPECT_THAT(ids.ids(), ElementsAre('o', 'k'));
  v1::DetokenizeRequest back;
  *back.mutable_ids() = ids.ids();
  v1::DetokenizeResponse again;
  ASSERT_TRUE(Unary(&Stub::Detokenize, back, again).ok());
  EXPECT_EQ(again.text(), "ok");
  back.add_ids(299);
  EXPECT_EQ(Unary(&Stub::Detokenize, back, again).error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  text.set_text(std::string((4 << 20) + 1, 'a'));
  const grpc::Status refused = Unary(&Stub::Tokenize, text, ids);
  EXPECT_EQ(refused.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(refused.error_message(), StartsWith("input: 4194"));
}

TEST_F(ServiceTest, SessionCallsSayThatThereAreNone) {
  StartServer();
  const auto expect = [](const grpc::Status& status, const char* call) {
    EXPECT_EQ(status.error_code(), grpc::StatusCode::UNIMPLEMENTED);
    EXPECT_THAT(status.error_message(), StartsWith(call));
  };
  v1::CreateSessionResponse created;
  expect(Unary(&Stub::CreateSession, v1::CreateSessionRequest(), created), "CreateSession");
  v1::CompactSessionResponse compacted;
  expect(Unary(&Stub::CompactSession, v1::CompactSessionRequest(), compacted), "CompactSession");
  v1::ForkSessionResponse forked;
  expect(Unary(&Stub::ForkSession, v1::ForkSessionRequest(), forked), "ForkSession");
  v1::ListSessionsResponse listed;
  expect(Unary(&Stub::ListSessions, v1::ListSessionsRequest(), listed), "ListSessions");
  v1::DeleteSessionResponse deleted;
  expect(Unary(&Stub::DeleteSession, v1::DeleteSessionRequest(), deleted), "DeleteSession");
  const auto context = Context();
  v1::StepSessionRequest request;
  request.set_request_id("step");
  const auto step = stub_->StepSession(context.get(), request);
  v1::GenerateResponse update;
  EXPECT_FALSE(step->Read(&update));
  expect(step->Finish(), "StepSession");
}

TEST_F(ServiceTest, PauseFreezesAndResumeGoesOn) {
  StartServer();
  v1::InferenceServicePauseResponse paused;
  ASSERT_TRUE(Unary(&Stub::Pause, v1::InferenceServicePauseRequest(), paused).ok());
  EXPECT_TRUE(engine_->paused());
  EXPECT_EQ(serving_.phase(), ServingPhase::kPaused);
  v1::InferenceServiceResumeResponse resumed;
  ASSERT_TRUE(Unary(&Stub::Resume, v1::InferenceServiceResumeRequest(), resumed).ok());
  EXPECT_FALSE(engine_->paused());
  EXPECT_EQ(serving_.phase(), ServingPhase::kServing);
}

TEST_F(ServiceTest, DrainFinishesWhatRunsAndAdmitsNothing) {
  StartServer();
  Stream stream = Call(Request("a"));
  ASSERT_EQ(stream.Next(), "accepted");
  v1::InferenceServiceDrainRequest request;
  request.set_grace_seconds(5);
  v1::InferenceServiceDrainResponse response;
  ASSERT_TRUE(Unary(&Stub::Drain, request, response).ok());
  EXPECT_EQ(response.finished(), 1);
  EXPECT_EQ(response.cancelled(), 0);
  EXPECT_EQ(drained_, 1);
  EXPECT_THAT(stream.Rest(), ElementsAre("finished 0", "end"));
  EXPECT_THAT(Call(Request("b")).Next(), StartsWith("status 14"));
  request.set_grace_seconds(-1);
  EXPECT_EQ(Unary(&Stub::Drain, request, response).error_code(),
            grpc::StatusCode::INVALID_ARGUMENT);
}

TEST_F(ServiceTest, AbortAllEndsTheSamplesOfOneClient) {
  StartServer();
  v1::GenerateRequest request = Request("a");
  request.set_client("one");
  request.set_n(2);
  Stream stream = Call(request);
  ASSERT_EQ(stream.Next(), "accepted");
  v1::AbortAllRequest abort;
  abort.set_client("another");
  v1::AbortAllResponse response;
  ASSERT_TRUE(Unary(&Stub::AbortAll, abort, response).ok());
  EXPECT_EQ(response.aborted(), 0);
  abort.set_client("one");
  abort.set_reason("stale");
  ASSERT_TRUE(Unary(&Stub::AbortAll, abort, response).ok());
  EXPECT_EQ(response.aborted(), 2);
  EXPECT_THAT(stream.Rest(), ElementsAre("error 0", "error 1", "end"));
  EXPECT_EQ(stream.last.error().message(), "stale");
}

TEST_F(ServiceTest, UpdateWeightsPassesTheAnnouncementOn) {
  StartServer();
  v1::UpdateWeightsRequest request;
  request.mutable_weights()->set_version(7);
  request.mutable_weights()->set_run("run");
  request.mutable_weights()->set_source_step(3);
  request.set_mode(v1::WEIGHTS_MODE_KEEP);
  v1::UpdateWeightsResponse response;
  ASSERT_TRUE(Unary(&Stub::UpdateWeights, request, response).ok());
  EXPECT_EQ(response.policy_version(), 7);
  EXPECT_EQ(response.load_seconds(), 0.5);
  ASSERT_TRUE(announced_.source.has_value());
  EXPECT_EQ(announced_.source->source_step, 3);
}

TEST_F(ServiceTest, UpdateWeightsRefusesByField) {
  StartServer();
  v1::UpdateWeightsRequest request;
  v1::UpdateWeightsResponse response;
  request.set_mode(v1::WEIGHTS_MODE_KEEP);
  EXPECT_THAT(Unary(&Stub::UpdateWeights, request, response).error_message(),
              StartsWith("weights.version=0"));
  request.mutable_weights()->set_version(2);
  request.set_mode(v1::WEIGHTS_MODE_UNSPECIFIED);
  EXPECT_THAT(Unary(&Stub::UpdateWeights, request, response).error_message(), StartsWith("mode=0"));
}

TEST_F(ServiceTest, UpdateWeightsPassesEachModeOn) {
  StartServer();
  const std::pair<v1::WeightsMode, WeightsMode> modes[] = {
      {v1::WEIGHTS_MODE_FINISH, WeightsMode::kFinish},
      {v1::WEIGHTS_MODE_RECOMPUTE, WeightsMode::kRecompute},
      {v1::WEIGHTS_MODE_KEEP, WeightsMode::kKeep}};
  for (const auto& [asked, passed] : modes) {
    v1::UpdateWeightsRequest request;
    request.mutable_weights()->set_version(7);
    request.mutable_weights()->set_run("run");
    request.set_mode(asked);
    v1::UpdateWeightsResponse response;
    ASSERT_TRUE(Unary(&Stub::UpdateWeights, request, response).ok());
    EXPECT_EQ(announced_mode_, passed);
  }
}

}  // namespace
}  // namespace palimpsest::inference
