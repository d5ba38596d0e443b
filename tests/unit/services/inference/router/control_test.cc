#include "tests/unit/services/inference/router/router_fixture.h"

namespace palimpsest::inference {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Stub = v1::InferenceService::StubInterface;

class ControlTest : public RouterTest {
 protected:
  static v1::UpdateWeightsRequest Weights(int64_t version) {
    v1::UpdateWeightsRequest request;
    request.mutable_weights()->set_version(version);
    request.mutable_weights()->set_run("run");
    request.set_mode(v1::WEIGHTS_MODE_KEEP);
    return request;
  }
};

TEST_F(ControlTest, ServerInfoIsThatOfTheWholeFleetWithTheLowestVersion) {
  StartFleet({std::make_shared<ScriptedEngine>(PolicyVersion(3)),
              std::make_shared<ScriptedEngine>(PolicyVersion(2))});
  v1::InferenceServiceGetServerInfoRequest request;
  v1::InferenceServiceGetServerInfoResponse info;
  EXPECT_EQ(Unary(&Stub::GetServerInfo, request, info).error_code(),
            grpc::StatusCode::FAILED_PRECONDITION);
  request.set_revision(v1::CONTRACT_REVISION_CURRENT);
  ASSERT_TRUE(Unary(&Stub::GetServerInfo, request, info).ok());
  EXPECT_EQ(info.server().role(), "router");
  EXPECT_EQ(info.state(), v1::SERVING_STATE_SERVING);
  EXPECT_EQ(info.model().vocab(), 300);
  EXPECT_EQ(info.policy_version(), 2);
  EXPECT_EQ(info.limits().max_running(), 8);
  EXPECT_EQ(info.limits().max_samples(), 4);  // of one request, which stays on one replica
  EXPECT_EQ(info.load().kv_bytes_free(), 154);
  EXPECT_TRUE(info.has_tokenizer());
}

TEST_F(ControlTest, ARequestForNewerWeightsGoesToWhoHasThem) {
  StartFleet({std::make_shared<ScriptedEngine>(PolicyVersion(3)),
              std::make_shared<ScriptedEngine>(PolicyVersion(2))});
  engine(0).FinishInsideSubmit(1);
  v1::GenerateRequest request = RequestFor(1, "a");
  request.set_min_policy_version(3);
  EXPECT_EQ(Call(request).Rest().back(), "end");
  EXPECT_EQ(engine(0).submissions(), 1u);
  request = RequestFor(1, "b");
  request.set_min_policy_version(4);
  EXPECT_THAT(Call(request).Next(), StartsWith("status 9 min_policy_version=4"));
}

TEST_F(ControlTest, PauseAndResumeReachEachReplica) {
  StartFleet();
  v1::InferenceServicePauseResponse paused;
  ASSERT_TRUE(Unary(&Stub::Pause, v1::InferenceServicePauseRequest(), paused).ok());
  EXPECT_TRUE(engine(0).paused() && engine(1).paused());
  v1::InferenceServiceResumeResponse resumed;
  ASSERT_TRUE(Unary(&Stub::Resume, v1::InferenceServiceResumeRequest(), resumed).ok());
  EXPECT_FALSE(engine(0).paused() || engine(1).paused());
}

TEST_F(ControlTest, APauseThatAReplicaMissesNamesItAndOthersDoNotWaitForOneThatIsAway) {
  StartFleet();
  nodes_[1]->Kill();
  ASSERT_TRUE(router_->WaitForReady(1));
  v1::InferenceServicePauseResponse paused;
  const grpc::Status status = Unary(&Stub::Pause, v1::InferenceServicePauseRequest(), paused);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_THAT(status.error_message(), StartsWith("inference-1: "));
  EXPECT_THAT(status.error_message(), HasSubstr("1 of 2 did it"));
  v1::UpdateWeightsResponse updated;
  EXPECT_TRUE(Unary(&Stub::UpdateWeights, Weights(7), updated).ok());
  EXPECT_EQ(updated.policy_version(), 7);
}

TEST_F(ControlTest, AbortedSamplesAddUp) {
  StartFleet();
  Stream a = Call(RequestFor(0, "a")), b = Call(RequestFor(1, "b"));
  ASSERT_EQ(a.Next() + b.Next(), "acceptedaccepted");
  v1::AbortAllResponse aborted;
  ASSERT_TRUE(Unary(&Stub::AbortAll, v1::AbortAllRequest(), aborted).ok());
  EXPECT_EQ(aborted.aborted(), 2);
}

TEST_F(ControlTest, WeightsThatOneReplicaRefusesAreRefusedByItsName) {
  StartFleet();
  engine(1).RefuseFolders(absl::DataLossError("a digest differs"));
  v1::UpdateWeightsResponse updated;
  const grpc::Status status = Unary(&Stub::UpdateWeights, Weights(7), updated);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::DATA_LOSS);
  EXPECT_EQ(status.error_message(), "inference-1: a digest differs; 1 of 2 did it");
}

TEST_F(ControlTest, DrainEndsTheFleetAndTheRouterWithIt) {
  StartFleet();
  Stream stream = Call(RequestFor(0, "a"));
  ASSERT_EQ(stream.Next(), "accepted");
  v1::InferenceServiceDrainRequest request;
  request.set_grace_seconds(5);
  v1::InferenceServiceDrainResponse drained;
  ASSERT_TRUE(Unary(&Stub::Drain, request, drained).ok());
  EXPECT_EQ(drained.finished(), 1);
  EXPECT_EQ(stream.Rest().back(), "end");
  EXPECT_EQ(router_->drained(), 1);
}

}  // namespace
}  // namespace palimpsest::inference
