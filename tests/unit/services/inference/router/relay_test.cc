#include "common/telemetry/log.h"
#include "common/telemetry/trace.h"
#include "tests/unit/services/inference/router/router_fixture.h"

namespace palimpsest::inference {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using RelayTest = RouterTest;
using Stub = v1::InferenceService::StubInterface;

TEST_F(RelayTest, RequestsOfOnePromptGoToOneReplicaAndPromptsToBoth) {
  StartFleet();
  for (int rank : {0, 1}) engine(rank).FinishInsideSubmit(1);
  for (int i = 0; i < 8; ++i) Call(RequestFor(0, "a" + std::to_string(i))).Rest();
  EXPECT_EQ(engine(0).submissions(), 8u);
  EXPECT_EQ(engine(1).submissions(), 0u);
  Call(RequestFor(1, "b")).Rest();
  EXPECT_EQ(engine(1).submissions(), 1u);
  EXPECT_THAT(
      router_->metrics(),
      HasSubstr("palimpsest_router_requests_total{outcome=\"ok\",replica=\"inference-0\"} 8"));
  EXPECT_THAT(router_->metrics(), HasSubstr("palimpsest_router_choices_total{choice=\"home\"} 9"));
  EXPECT_THAT(router_->metrics(), HasSubstr("palimpsest_router_added_seconds_count 9"));
}

TEST_F(RelayTest, WhatHasNotHappenedIsToldAsZero) {
  StartFleet();
  for (const std::string series :
       {"requests_total{outcome=\"full\",replica=\"inference-0\"}",
        "requests_total{outcome=\"unavailable\",replica=\"inference-1\"}",
        "requests_total{outcome=\"lost\",replica=\"inference-1\"}",
        "choices_total{choice=\"elsewhere\"}", "choices_total{choice=\"known\"}", "repeats_total",
        "added_seconds_count"}) {
    EXPECT_THAT(router_->metrics(), HasSubstr("palimpsest_router_" + series + " 0\n"));
  }
}

TEST_F(RelayTest, ReplicasAreCountedByStanding) {
  StartFleet();
  const auto replicas = [this](const std::string& standing, int count) {
    const std::string line =
        "router_replicas{standing=\"" + standing + "\"} " + std::to_string(count) + "\n";
    for (int i = 0; i < 1000; ++i) {
      if (router_->metrics().find(line) != std::string::npos) return true;
      absl::SleepFor(absl::Milliseconds(10));
    }
    return false;
  };
  EXPECT_TRUE(replicas("ready", 2) && replicas("doubtful", 0) && replicas("away", 0));
  nodes_[0]->serving.StartDraining();
  EXPECT_TRUE(replicas("ready", 1) && replicas("doubtful", 0) && replicas("away", 1));
}

TEST_F(RelayTest, AReplicaLostBeforeTheFirstTokenIsReplacedUnseen) {
  StartFleet();
  Stream stream = Call(RequestFor(0, "a"));
  ASSERT_EQ(stream.Next(), "accepted");
  nodes_[0]->Kill();
  ASSERT_TRUE(engine(1).WaitForSubmissions(1));
  EXPECT_EQ(engine(1).submission(0).sampling, engine(0).submission(0).sampling);
  EXPECT_EQ(engine(1).submission(0).prompt, engine(0).submission(0).prompt);
  // `accepted` does not come twice.
  while (engine(1).load().running == 0) absl::SleepFor(absl::Milliseconds(1));
  engine(1).Token("a");
  engine(1).Finish("a");
  EXPECT_THAT(stream.Rest(), ElementsAre("tokens 12+1", "finished 0", "end"));
  EXPECT_THAT(router_->metrics(), HasSubstr("palimpsest_router_repeats_total 1"));
  // The repetition is no second request, and its time is the router's.
  EXPECT_THAT(router_->metrics(), HasSubstr("palimpsest_router_choices_total{choice=\"home\"} 1"));
  EXPECT_THAT(router_->metrics(), HasSubstr("palimpsest_router_added_seconds_count 1"));
  EXPECT_THAT(router_->metrics(),
              HasSubstr("palimpsest_router_added_seconds_bucket{le=\"0.0001\"} 0"));
}

TEST_F(RelayTest, AReplicaLostAfterTheFirstTokenIsOneRetryableErrorForEachOpenSample) {
  StartFleet();
  v1::GenerateRequest request = RequestFor(0, "a");
  request.set_n(3);
  request.set_first_sample(5);
  Stream stream = Call(request);
  ASSERT_EQ(stream.Next(), "accepted");
  engine(0).Token("a");
  for (int i = 0; i < 3; ++i) EXPECT_EQ(stream.Next(), "tokens 12+1");
  nodes_[0]->Kill();
  EXPECT_EQ(stream.Next(), "error 5");
  EXPECT_TRUE(stream.last.error().retryable());
  EXPECT_EQ(stream.last.error().code(), grpc::StatusCode::UNAVAILABLE);
  EXPECT_EQ(stream.last.error().outcome(), v1::OUTCOME_INFRA_FAILED);
  EXPECT_THAT(stream.last.error().message(), StartsWith("inference-0: "));
  EXPECT_THAT(stream.Rest(), ElementsAre("error 6", "error 7", "end"));
  EXPECT_EQ(engine(1).submissions(), 0u);
}

TEST_F(RelayTest, WhenAllAreLostBeforeTheFirstTokenTheSamplesEndRetryable) {
  StartFleet();
  Stream stream = Call(RequestFor(0, "a"));
  ASSERT_EQ(stream.Next(), "accepted");
  nodes_[1]->Kill();
  nodes_[0]->Kill();
  EXPECT_THAT(stream.Rest(), ElementsAre("error 0", "end"));
  EXPECT_TRUE(stream.last.error().retryable());
  ASSERT_TRUE(router_->WaitForReady(0));
  EXPECT_THAT(Call(RequestFor(0, "b")).Next(), StartsWith("status 14 "));
}

// The replica says in its stream that it cannot go on.
TEST_F(RelayTest, AnUnavailableSampleIsBegunAgainElsewhereAndAnAbortedOneIsNot) {
  StartFleet();
  Stream lost = Call(RequestFor(0, "a"));
  ASSERT_EQ(lost.Next(), "accepted");
  engine(1).FinishInsideSubmit(1);
  engine(0).Fail("a", absl::UnavailableError("lost"), true, rl::Outcome::kInfraFailed);
  EXPECT_THAT(lost.Rest(), ElementsAre("tokens 12+1", "finished 0", "end"));
  ASSERT_TRUE(router_->WaitForReady(2));  // after a look
  Stream aborted = Call(RequestFor(0, "b"));
  ASSERT_EQ(aborted.Next(), "accepted");
  engine(0).AbortAll("", "by an operator");
  EXPECT_THAT(aborted.Rest(), ElementsAre("error 0", "end"));
  EXPECT_EQ(aborted.last.error().message(), "by an operator");
  EXPECT_EQ(engine(1).submissions(), 1u);
}

TEST_F(RelayTest, ADrainingReplicaEndsWhatItHasAndTheOtherGetsWhatIsNew) {
  StartFleet();
  Stream old = Call(RequestFor(0, "a"));
  ASSERT_EQ(old.Next(), "accepted");
  nodes_[0]->serving.StartDraining();
  engine(1).FinishInsideSubmit(1);
  EXPECT_THAT(Call(RequestFor(0, "b")).Rest(),
              ElementsAre("accepted", "tokens 12+1", "finished 0", "end"));
  engine(0).Token("a");
  engine(0).Finish("a");
  EXPECT_THAT(old.Rest(), ElementsAre("tokens 12+1", "finished 0", "end"));
  EXPECT_TRUE(router_->WaitForReady(1));
}

TEST_F(RelayTest, WhatADrainingReplicaCutsBeforeItsFirstTokenIsBegunAgain) {
  StartFleet();
  Stream stream = Call(RequestFor(0, "a"));
  ASSERT_EQ(stream.Next(), "accepted");
  nodes_[0]->serving.StartDraining();
  ASSERT_TRUE(router_->WaitForReady(1));
  engine(1).FinishInsideSubmit(1);
  engine(0).Drain(absl::ZeroDuration());  // the grace is over: CANCELLED
  EXPECT_THAT(stream.Rest(), ElementsAre("tokens 12+1", "finished 0", "end"));
}

TEST_F(RelayTest, AFullReplicaPassesTheRequestOnAndWhenAllAreFullEachSaysSo) {
  StartFleet();
  engine(0).RefuseNext(absl::ResourceExhaustedError("max_queued=8: full"));
  engine(1).FinishInsideSubmit(1);
  EXPECT_THAT(Call(RequestFor(0, "a")).Rest(),
              ElementsAre("accepted", "tokens 12+1", "finished 0", "end"));
  engine(0).RefuseNext(absl::ResourceExhaustedError("max_queued=8: full"));
  engine(1).RefuseNext(absl::ResourceExhaustedError("pool full"));
  EXPECT_EQ(Call(RequestFor(0, "b")).Next(),
            "status 8 inference-0: max_queued=8: full; inference-1: pool full");
}

// Where it is was a matter of load, and loads change: only the router's memory finds it again.
TEST_F(RelayTest, ARepeatedRequestJoinsTheGenerationThatWasSentToTheSecondChoice) {
  StartFleet();
  std::vector<Stream> crowd;
  for (int i = 0; i < 4; ++i) {
    crowd.push_back(Call(RequestFor(0, "crowd" + std::to_string(i))));
    ASSERT_EQ(crowd.back().Next(), "accepted");
  }
  ASSERT_EQ(engine(0).submissions(), 4u);  // all rows of the first are in use
  Stream first = Call(RequestFor(0, "a"));
  ASSERT_EQ(first.Next(), "accepted");
  ASSERT_EQ(RankOf("a"), 1);
  for (int i = 0; i < 4; ++i) {
    engine(0).Finish("crowd" + std::to_string(i));
    EXPECT_THAT(crowd[i].Rest(), ElementsAre("finished 0", "end"));
  }
  Stream again = Call(RequestFor(0, "a"));
  ASSERT_EQ(again.Next(), "accepted");
  // The control: another id of this prompt goes to the first choice now.
  Stream other = Call(RequestFor(0, "b"));
  ASSERT_EQ(other.Next(), "accepted");
  EXPECT_EQ(RankOf("b"), 0);
  EXPECT_EQ(engine(1).submissions(), 1u);
  EXPECT_EQ(engine(0).submissions(), 5u);
  engine(1).Finish("a");
  EXPECT_THAT(first.Rest(), ElementsAre("finished 0", "end"));
  EXPECT_THAT(again.Rest(), ElementsAre("finished 0", "end"));
}

TEST_F(RelayTest, AReplicaComesBackUnderItsNameAtAnotherAddress) {
  for (int rank : {0, 1}) {
    nodes_.push_back(std::make_unique<ReplicaNode>(rank, std::make_shared<ScriptedEngine>()));
  }
  absl::Mutex mu;
  ReplicaAddresses addresses{{"inference-0", nodes_[0]->address()}};
  router_ = std::make_unique<RouterFront>([&] {
    const absl::MutexLock lock(&mu);
    return addresses;
  });
  ASSERT_TRUE(router_->WaitForReady(1));
  stub_ = v1::InferenceService::NewStub(*MakeChannel(router_->address(), {}));
  nodes_[0]->Kill();
  ASSERT_TRUE(router_->WaitForReady(0));
  {
    const absl::MutexLock lock(&mu);
    addresses["inference-0"] = nodes_[1]->address();
  }
  ASSERT_TRUE(router_->WaitForReady(1));
  engine(1).FinishInsideSubmit(1);
  EXPECT_THAT(Call(Request("a")).Rest(),
              ElementsAre("accepted", "tokens 3+1", "finished 0", "end"));
  router_.reset();  // before `mu` and `addresses`
}

TEST_F(RelayTest, AReplicaOfAnotherModelIsLeftOut) {
  StartFleet({std::make_shared<ScriptedEngine>()});
  const auto other = std::make_shared<ScriptedEngine>(PolicyVersion(1), 301);
  nodes_.push_back(std::make_unique<ReplicaNode>(1, other));
  addresses_["inference-1"] = nodes_[1]->address();
  // The first that answers says which model it is: this one is known alone at first.
  const ReplicaAddresses all = addresses_;
  std::atomic<bool> both = false;
  router_ = std::make_unique<RouterFront>([&] {
    return both ? all : ReplicaAddresses{{"inference-0", all.at("inference-0")}};
  });
  ASSERT_TRUE(router_->WaitForReady(1));
  both = true;
  stub_ = v1::InferenceService::NewStub(*MakeChannel(router_->address(), {}));
  nodes_[0]->Kill();
  ASSERT_TRUE(router_->WaitForReady(0));
  for (int i = 0; i < 5; ++i) {
    const std::string status = Call(Request("a")).Next();
    if (status.find("another model") != std::string::npos) break;
    absl::SleepFor(absl::Milliseconds(100));
  }
  EXPECT_THAT(Call(Request("a")).Next(),
              HasSubstr("inference-1 serves another model than the first replica did"));
  EXPECT_EQ(other->submissions(), 0u);
  router_.reset();
}

TEST_F(RelayTest, AReplicaServesUnderTheTraceOfWhoCalledTheRouter) {
  struct Nowhere final : TraceSink {
    void Take(CallSpan) override {}
  } nowhere;
  StartFleet();
  for (int rank : {0, 1}) engine(rank).FinishInsideSubmit(1);
  absl::Mutex mu;
  std::map<std::string, int> served;  // calls of the trace, by method
  const ScopedLogSink lines([&](const std::string& line) {
    const absl::MutexLock lock(&mu);
    if (line.find("call served") == std::string::npos) return;
    EXPECT_THAT(line, HasSubstr("0000000000000abc0000000000000def"));
    for (const char* method : {"Generate", "Score"}) {
      served[method] += line.find(std::string("InferenceService/") + method) != std::string::npos;
    }
  });
  {
    const TraceScope scope({{0xabc, 0xdef}, &nowhere});
    Call(Request("a")).Rest();
    v1::ScoreRequest score;
    for (const int id : {5, 6, 7}) score.add_ids(id);
    v1::ScoreResponse scored;
    EXPECT_TRUE(Unary(&Stub::Score, score, scored).ok());
  }
  Call(Request("b")).Rest();  // in no trace
  const absl::MutexLock lock(&mu);
  EXPECT_THAT(served, testing::UnorderedElementsAre(testing::Pair("Generate", 2),
                                                    testing::Pair("Score", 2)));
}

TEST_F(RelayTest, OtherCallsFindAReplicaThatAnswers) {
  StartFleet();
  v1::ScoreRequest score;
  for (const int id : {5, 6, 7}) score.add_ids(id);
  v1::ScoreResponse scored;
  v1::TokenizeRequest text;
  text.set_text("ok");
  v1::TokenizeResponse ids;
  v1::DetokenizeResponse back;
  ASSERT_TRUE(Unary(&Stub::Score, score, scored).ok());
  EXPECT_THAT(scored.logprobs(), ElementsAre(-6, -7));
  nodes_[0]->Kill();
  ASSERT_TRUE(Unary(&Stub::Score, score, scored).ok());
  ASSERT_TRUE(Unary(&Stub::Tokenize, text, ids).ok());
  EXPECT_THAT(ids.ids(), ElementsAre('o', 'k'));
  v1::DetokenizeRequest detokenize;
  *detokenize.mutable_ids() = ids.ids();
  ASSERT_TRUE(Unary(&Stub::Detokenize, detokenize, back).ok());
  EXPECT_EQ(back.text(), "ok");
  score.set_temperature(0);
  EXPECT_THAT(Unary(&Stub::Score, score, scored).error_message(), StartsWith("temperature"));
}

}  // namespace
}  // namespace palimpsest::inference
