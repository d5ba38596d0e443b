#include "tests/unit/services/inference/server/generate_contract.h"

namespace palimpsest::inference {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;

std::string Status(grpc::StatusCode code, const std::string& message) {
  return "status " + std::to_string(code) + " " + message;
}

TEST_P(GenerateContract, SendsAcceptedThenTokensThenFinished) {
  StartServer();
  Stream stream = Call(Request("a"));
  EXPECT_EQ(stream.Next(), "accepted");
  EXPECT_EQ(stream.last.accepted().request_id(), "a");
  EXPECT_THAT(stream.last.accepted().prompt_ids(), ElementsAre(1, 2, 3));
  EXPECT_EQ(stream.last.accepted().policy_version(), 1);
  engine_->Token("a");
  EXPECT_EQ(stream.Next(), "tokens 3+1");
  EXPECT_THAT(stream.last.tokens().origins(), ElementsAre(v1::TOKEN_ORIGIN_SAMPLED));
  EXPECT_EQ(stream.last.tokens().policy_version(), 1);
  engine_->Compact("a");
  engine_->Token("a");
  engine_->Finish("a");
  EXPECT_THAT(stream.Rest(), ElementsAre("compaction", "tokens 4+1", "finished 0", "end"));
  EXPECT_EQ(stream.last.finished().rollout().tokens_size(), 5);
  EXPECT_EQ(stream.last.finished().text(), "all");
}

TEST_P(GenerateContract, SamplesThatHaveBegunReachTheEngineAndBrokenOnesAreRefusedByName) {
  StartServer();
  v1::GenerateRequest request = Request("a");
  v1::Rollout& begun = *request.add_begun();
  begun.set_id("x/0");
  begun.set_prompt_tokens(3);
  for (const int token : {1, 2, 3, 7}) {
    begun.add_tokens(token);
    begun.add_origins(token < 7 ? v1::TOKEN_ORIGIN_PROMPT : v1::TOKEN_ORIGIN_SAMPLED);
    begun.add_logprobs(token < 7 ? 0.0f : -1.0f);
  }
  v1::ProvenanceSpan& span = *begun.add_spans();
  span.set_begin(3);
  span.set_end(4);
  begun.set_finish_reason(v1::FINISH_REASON_CANCELLED);
  begun.set_temperature(1);
  Stream stream = Call(request);
  EXPECT_EQ(stream.Next(), "accepted");
  ASSERT_EQ(engine_->submission(0).begun.size(), 1u);
  EXPECT_THAT(engine_->submission(0).begun[0].tokens, ElementsAre(1, 2, 3, 7));
  engine_->Finish("a");
  request.set_request_id("b");
  span.set_end(9);
  EXPECT_THAT(Call(request).Next(), HasSubstr("begun[0].spans: end at 9, not at 4 tokens"));
}

TEST_P(GenerateContract, AcceptedComesFirstAlsoWhenTheEngineIsQuicker) {
  StartServer();
  engine_->FinishInsideSubmit(2);
  v1::GenerateRequest request = Request("a");
  request.set_n(2);
  request.set_first_sample(4);
  EXPECT_THAT(Call(request).Rest(), ElementsAre("accepted", "tokens 3+2", "finished 4",
                                                "tokens 3+2", "finished 5", "end"));
}

TEST_P(GenerateContract, WithoutStreamTokensThereIsOnlyAcceptedAndFinished) {
  StartServer();
  v1::GenerateRequest request = Request("a");
  request.set_stream_tokens(false);
  Stream stream = Call(request);
  EXPECT_EQ(stream.Next(), "accepted");
  engine_->Token("a");
  engine_->Compact("a");
  engine_->Finish("a");
  EXPECT_THAT(stream.Rest(), ElementsAre("finished 0", "end"));
}

TEST_P(GenerateContract, AFailureCarriesCodeOutcomeAndWhatThereIs) {
  StartServer();
  Stream stream = Call(Request("a"));
  ASSERT_EQ(stream.Next(), "accepted");
  engine_->Token("a");
  engine_->Fail("a", absl::InternalError("broken"), true, rl::Outcome::kInfraFailed);
  EXPECT_THAT(stream.Rest(), ElementsAre("tokens 3+1", "error 0", "end"));
  const v1::GenerationError& error = stream.last.error();
  EXPECT_EQ(error.code(), grpc::StatusCode::INTERNAL);
  EXPECT_EQ(error.message(), "broken");
  EXPECT_TRUE(error.retryable());
  EXPECT_EQ(error.outcome(), v1::OUTCOME_INFRA_FAILED);
  EXPECT_EQ(error.partial().tokens_size(), 4);
}

TEST_P(GenerateContract, WhatTheClientCancelsIsCancelledInTheEngine) {
  StartServer();
  Stream stream = Call(Request("a"));
  ASSERT_EQ(stream.Next(), "accepted");
  stream.context->TryCancel();
  EXPECT_TRUE(engine_->WaitForCancel("a"));
  EXPECT_THAT(stream.Next(), StartsWith("status 1"));
}

TEST_P(GenerateContract, TheDeadlineReachesTheEngineAndEndsTheGeneration) {
  StartServer();
  const absl::Time before = absl::Now();
  Stream stream = Call(Request("a"), absl::Milliseconds(500));
  ASSERT_EQ(stream.Next(), "accepted");
  EXPECT_GT(engine_->submission(0).deadline, before);
  EXPECT_LT(engine_->submission(0).deadline, before + absl::Seconds(5));
  EXPECT_TRUE(engine_->WaitForCancel("a"));
  EXPECT_THAT(stream.Next(), StartsWith("status 4"));
}

TEST_P(GenerateContract, TheSameRequestWhileItRunsJoinsTheSameGeneration) {
  StartServer();
  Stream first = Call(Request("a"));
  ASSERT_EQ(first.Next(), "accepted");
  engine_->Token("a");
  engine_->Token("a");
  EXPECT_EQ(first.Next(), "tokens 3+1");
  EXPECT_EQ(first.Next(), "tokens 4+1");
  Stream second = Call(Request("a"));
  EXPECT_EQ(second.Next(), "accepted");
  EXPECT_EQ(second.Next(), "tokens 3+2");  // what was before, in one
  first.context->TryCancel();              // the other one still listens
  engine_->Token("a");
  EXPECT_EQ(second.Next(), "tokens 5+1");
  engine_->Finish("a");
  EXPECT_THAT(second.Rest(), ElementsAre("finished 0", "end"));
  EXPECT_EQ(engine_->submissions(), 1u);
}

TEST_P(GenerateContract, TheSameRequestAfterwardsGetsTheSameResults) {
  StartServer();
  engine_->FinishInsideSubmit(3);
  Stream first = Call(Request("a"));
  EXPECT_THAT(first.Rest(), ElementsAre("accepted", "tokens 3+3", "finished 0", "end"));
  Stream second = Call(Request("a"));
  EXPECT_THAT(second.Rest(), ElementsAre("accepted", "finished 0", "end"));
  EXPECT_EQ(first.last.SerializeAsString(), second.last.SerializeAsString());
  EXPECT_EQ(engine_->submissions(), 1u);
}

TEST_P(GenerateContract, WhatMaySucceedLaterIsGeneratedAgain) {
  StartServer();
  Stream first = Call(Request("a"));
  ASSERT_EQ(first.Next(), "accepted");
  engine_->Fail("a", absl::UnavailableError("lost"), true, rl::Outcome::kInfraFailed);
  EXPECT_THAT(first.Rest(), ElementsAre("error 0", "end"));
  engine_->FinishInsideSubmit(1);
  EXPECT_THAT(Call(Request("a")).Rest(),
              ElementsAre("accepted", "tokens 3+1", "finished 0", "end"));
  EXPECT_EQ(engine_->submissions(), 2u);
}

TEST_P(GenerateContract, AnIdOfAnotherRequestIsRefusedNamingWhatDiffers) {
  StartServer();
  engine_->FinishInsideSubmit(1);
  Call(Request("a")).Rest();
  v1::GenerateRequest other = Request("a");
  other.mutable_sampling()->set_seed(9);
  const std::string status = Call(other).Next();
  EXPECT_THAT(status, StartsWith("status 6 request_id=a"));
  EXPECT_THAT(status, HasSubstr("sampling"));
  EXPECT_EQ(engine_->submissions(), 1u);
}

TEST_P(GenerateContract, ARefusalOfTheEngineIsPassedOnAndFreesTheId) {
  StartServer();
  engine_->RefuseNext(absl::ResourceExhaustedError("max_queued=8: full"));
  EXPECT_EQ(Call(Request("a")).Next(),
            Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "max_queued=8: full"));
  engine_->FinishInsideSubmit(1);
  EXPECT_THAT(Call(Request("a")).Rest(),
              ElementsAre("accepted", "tokens 3+1", "finished 0", "end"));
}

TEST_P(GenerateContract, ASlowReaderIsEndedAndItsGenerationCancelled) {
  StartServer(true, 4);
  Stream stream = Call(Request("a"));
  ASSERT_EQ(stream.Next(), "accepted");
  const std::string text(1 << 20, 'x');  // more than gRPC holds for a peer that does not read
  for (int i = 0; i < 40; ++i) engine_->Token("a", text);
  EXPECT_TRUE(engine_->WaitForCancel("a"));
  EXPECT_THAT(stream.Rest().back(), HasSubstr("status 8 the reader is 4 streamed messages behind"));
}

struct Refusal {
  const char* field;
  grpc::StatusCode code;
  std::function<void(v1::GenerateRequest&)> breaks;
};

TEST_P(GenerateContract, CallsThatAreGivenUpAtOnceAreCountedAsCancelled) {
  StartServer();
  for (int i = 0; i < 100; ++i) {
    Stream stream = Call(Request("gone-" + std::to_string(i)));
    stream.context->TryCancel();
    stream.Rest();
  }
  EXPECT_THAT(metrics_.Text(), ::testing::Not(HasSubstr("code=\"UNIMPLEMENTED\"")));
}

TEST_P(GenerateContract, RefusalsNameTheField) {
  StartServer();
  using R = v1::GenerateRequest;
  constexpr auto kInvalid = grpc::StatusCode::INVALID_ARGUMENT;
  constexpr auto kUnimplemented = grpc::StatusCode::UNIMPLEMENTED;
  const std::vector<Refusal> refusals{
      {"request_id", kInvalid, [](R& r) { r.clear_request_id(); }},
      {"request_id", kInvalid, [](R& r) { r.set_request_id(std::string(129, 'a')); }},
      {"prompt:", kInvalid, [](R& r) { r.clear_prompt(); }},
      {"prompt_ids.ids:", kInvalid, [](R& r) { r.mutable_prompt_ids()->clear_ids(); }},
      {"prompt_ids.ids[1]", kInvalid, [](R& r) { r.mutable_prompt_ids()->set_ids(1, 300); }},
      {"prompt_ids.ids[0]", kInvalid, [](R& r) { r.mutable_prompt_ids()->set_ids(0, -1); }},
      {"prompt_text", kInvalid, [](R& r) { r.set_prompt_text(""); }},
      {"prompt_text: has 100000 bytes", kInvalid,
       [](R& r) { r.set_prompt_text(std::string(100'000, 'a')); }},
      {"prompt_chat: ", grpc::StatusCode::FAILED_PRECONDITION,
       [](R& r) { r.mutable_prompt_chat(); }},
      {"n:", kInvalid, [](R& r) { r.set_n(5); }},
      {"n:", kInvalid, [](R& r) { r.set_n(-1); }},
      {"first_sample", kInvalid, [](R& r) { r.set_first_sample(-1); }},
      {"client", kInvalid, [](R& r) { r.set_client(std::string(129, 'c')); }},
      {"sampling.top_p", kInvalid, [](R& r) { r.mutable_sampling()->set_top_p(2); }},
      {"sampling.top_logprobs", kInvalid,
       [](R& r) { r.mutable_sampling()->set_top_logprobs(101); }},
      {"context.turns", kUnimplemented, [](R& r) { r.mutable_context()->mutable_turns(); }},
      {"context.manual", kUnimplemented, [](R& r) { r.mutable_context()->mutable_manual(); }},
      {"context.", kInvalid,
       [](R& r) {  // protected prompt of 3 + window 8 > budget
         auto* trigger = r.mutable_context()->mutable_kv_budget();
         trigger->set_budget(8);
         trigger->set_window(8);
       }},
      {"budget_messages.text", kInvalid, [](R& r) { r.mutable_budget_messages(); }},
      {"min_policy_version=2", grpc::StatusCode::FAILED_PRECONDITION,
       [](R& r) { r.set_min_policy_version(2); }},
  };
  int id = 0;
  for (const Refusal& refusal : refusals) {
    v1::GenerateRequest request = Request("r" + std::to_string(id++));
    refusal.breaks(request);
    EXPECT_THAT(Call(request).Next(), StartsWith(Status(refusal.code, refusal.field)));
  }
  EXPECT_EQ(engine_->submissions(), 0u);
}

TEST_P(GenerateContract, TextIsTokenisedWithoutSpecialTokens) {
  StartServer();
  v1::GenerateRequest request = Request("a");
  request.set_prompt_text("hi");
  Stream stream = Call(request);
  ASSERT_EQ(stream.Next(), "accepted");
  EXPECT_THAT(stream.last.accepted().prompt_ids(), ElementsAre('h', 'i'));
  EXPECT_THAT(engine_->submission(0).prompt, ElementsAre('h', 'i'));
}

TEST_F(ServerTest, NothingIsAdmittedBeforeTheWeightsAndWhileDraining) {
  StartServer(false);
  EXPECT_THAT(Call(Request("a")).Next(), StartsWith("status 14 starting"));
  InstallEngine();
  serving_.StartDraining();
  EXPECT_THAT(Call(Request("a")).Next(), StartsWith("status 14 draining"));
}

}  // namespace
}  // namespace palimpsest::inference
