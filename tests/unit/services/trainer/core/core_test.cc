#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>

#include "common/context/log.h"
#include "services/trainer/core/admission.h"
#include "services/trainer/core/schedule.h"
#include "services/trainer/core/step_ledger.h"

namespace palimpsest::trainer {
namespace {

using ::testing::HasSubstr;

constexpr Limits kLimits = {
    .shape = {1, 1}, .vocab = 10, .max_tokens_per_sequence = 12, .newest = PolicyVersion(3)};

RlItem GoodItem() {
  RlItem item;
  item.rollout = {.id = "r1",
                  .tokens = {1, 2, 3, 4, 5, 6},
                  .prompt_tokens = 2,
                  .origins = {rl::Origin::kPrompt, rl::Origin::kPrompt, rl::Origin::kSampled,
                              rl::Origin::kSampled, rl::Origin::kInjected, rl::Origin::kSampled},
                  .logprobs = {0, 0, -1, -2, 0, -0.5},
                  .spans = {{2, 4, PolicyVersion(2), 0}, {4, 6, PolicyVersion(3), 0}}};
  context::Event event{.at = 4, .window = {2, 4}, .reference = {0, 4}};
  event.kept = context::KeptPositions(kLimits.shape);
  event.kept.AddHead(std::vector<int32_t>{3});
  item.rollout.events = {event};
  EXPECT_TRUE(context::CompleteDigests(item.rollout.tokens, item.rollout.events).ok());
  return item;
}

RejectReason ReasonOf(const RlItem& item) {
  const std::optional<Rejected> rejected = Refuse(item, kLimits);
  EXPECT_TRUE(rejected.has_value());
  if (!rejected) return RejectReason::kStale;
  EXPECT_EQ(rejected->id, "r1");
  EXPECT_FALSE(rejected->message.empty());
  return rejected->reason;
}

TEST(AdmissionTest, AWholeRolloutIsTaken) { EXPECT_FALSE(Refuse(GoodItem(), kLimits)); }

TEST(AdmissionTest, WhatContradictsItselfIsRejectedForItsReason) {
  const std::vector<std::pair<RejectReason, std::function<void(RlItem&)>>> broken = {
      {RejectReason::kDigest, [](RlItem& i) { i.rollout.events[0].digest->bytes[3] ^= 1; }},
      {RejectReason::kDigest, [](RlItem& i) { i.rollout.events[0].digest.reset(); }},
      {RejectReason::kDigest, [](RlItem& i) { i.rollout.tokens[1] = 9; }},
      {RejectReason::kLog, [](RlItem& i) { i.rollout.events[0].window.end = 5; }},
      {RejectReason::kMalformed, [](RlItem& i) { i.rollout.tokens[5] = 10; }},
      {RejectReason::kMalformed, [](RlItem& i) { i.rollout.logprobs[3] = std::nanf(""); }},
      {RejectReason::kMalformed, [](RlItem& i) { i.rollout.logprobs.pop_back(); }},
      {RejectReason::kMalformed, [](RlItem& i) { i.rollout.prompt_tokens = 3; }},
      {RejectReason::kMalformed, [](RlItem& i) { i.rollout.spans.pop_back(); }},
      {RejectReason::kMalformed, [](RlItem& i) { i.rollout.temperature = 0; }},
      {RejectReason::kMalformed, [](RlItem& i) { i.advantage = INFINITY; }},
      {RejectReason::kMalformed, [](RlItem& i) { i.weight = -1; }},
      {RejectReason::kMalformed, [](RlItem& i) { i.outcome = rl::Outcome::kInfraFailed; }},
      {RejectReason::kVersion, [](RlItem& i) { i.rollout.spans[1].version = PolicyVersion(4); }},
      {RejectReason::kTruncatedSampling, [](RlItem& i) { i.rollout.truncated_sampling = true; }},
      {RejectReason::kTruncatedSampling, [](RlItem& i) { i.rollout.greedy = true; }},
      {RejectReason::kTooLong, [](RlItem& i) { i.rollout.tokens.resize(13, 1); }},
  };
  for (size_t n = 0; n < broken.size(); ++n) {
    RlItem item = GoodItem();
    broken[n].second(item);
    EXPECT_EQ(ReasonOf(item), broken[n].first) << n;
  }
}

TEST(AdmissionTest, GreedyAndTruncatedDrawsAreTakenWhenAskedFor) {
  Limits limits = kLimits;
  limits.take_greedy = limits.take_truncated_sampling = true;
  RlItem item = GoodItem();
  item.rollout.greedy = item.rollout.truncated_sampling = true;
  EXPECT_FALSE(Refuse(item, limits));
}

TEST(AdmissionTest, TurnsOfADemonstrationRiseWithinItsResponse) {
  SftItem item{.id = "d", .ids = {1, 2, 3, 4, 5, 6}, .loss_mask = std::vector<bool>(6, true)};
  item.prompt_tokens = 2;
  item.turn_begins = {2, 4, 5};
  EXPECT_FALSE(Refuse(item, kLimits));
  const std::vector<std::vector<int32_t>> wrong = {{1}, {2, 2}, {4, 3}, {2, 6}, {2, -1}};
  for (const std::vector<int32_t>& begins : wrong) {
    item.turn_begins = begins;
    const auto refused = Refuse(item, kLimits);
    ASSERT_TRUE(refused);
    EXPECT_THAT(refused->message, HasSubstr("turn_begins["));
  }
}

TEST(AdmissionTest, ABatchIsOfOneKindAndHasAName) {
  Batch batch{.id = "b", .step = 1, .rl = {GoodItem()}};
  EXPECT_TRUE(Validate(batch).ok());
  batch.learning_rate = 0;
  EXPECT_THAT(std::string(Validate(batch).message()), HasSubstr("learning_rate=0"));
  batch.learning_rate.reset();
  batch.sft.emplace_back();
  EXPECT_FALSE(Validate(batch).ok());
  EXPECT_FALSE(Validate(Batch{.id = "b"}).ok());
  EXPECT_FALSE(Validate(Batch{.rl = {GoodItem()}}).ok());
}

TEST(ScheduleTest, TheRateWarmsUpAndThenFallsInALine) {
  const Schedule s{
      .learning_rate = 1, .warmup_steps = 4, .final_learning_rate = 0.2, .decay_steps = 8};
  EXPECT_DOUBLE_EQ(LearningRate(s, 1), 0.25);
  EXPECT_DOUBLE_EQ(LearningRate(s, 4), 1);
  EXPECT_DOUBLE_EQ(LearningRate(s, 6), 0.6);
  EXPECT_DOUBLE_EQ(LearningRate(s, 8), 0.2);
  EXPECT_DOUBLE_EQ(LearningRate(s, 100), 0.2);
  EXPECT_DOUBLE_EQ(LearningRate({.learning_rate = 3, .warmup_steps = 0}, 1), 3);
  EXPECT_FALSE(Validate(Schedule{.warmup_steps = 5, .decay_steps = 5}).ok());
}

TEST(ScheduleTest, ACosineIsFlatAtItsEndsAndMeetsTheLineInTheMiddle) {
  const Schedule s{.learning_rate = 1,
                   .warmup_steps = 0,
                   .final_learning_rate = 0.2,
                   .decay_steps = 8,
                   .decay = Decay::kCosine};
  EXPECT_DOUBLE_EQ(LearningRate(s, 2), 0.6 + 0.4 * std::cos(std::acos(-1) / 4));
  EXPECT_DOUBLE_EQ(LearningRate(s, 4), 0.6);
  EXPECT_GT(LearningRate(s, 1), 0.95);  // the line is at 0.9
  EXPECT_LT(LearningRate(s, 7), 0.25);  // and here at 0.3
  EXPECT_DOUBLE_EQ(LearningRate(s, 8), 0.2);
  EXPECT_FALSE(Validate(Schedule{.decay = Decay::kCosine}).ok());
}

TEST(StepLedgerTest, StepsThatWereNotFiniteCountUntilOneIs) {
  StepLedger ledger;
  EXPECT_EQ(ledger.NotFiniteInARow(), 0);
  const auto add = [&](bool skipped, int64_t loss_tokens) {
    ledger.Add({.step = ledger.step() + 1, .loss_tokens = loss_tokens, .skipped = skipped});
    return ledger.NotFiniteInARow();
  };
  EXPECT_EQ(add(true, 5), 1);
  EXPECT_EQ(add(false, 5), 0);
  EXPECT_EQ(add(true, 5), 1);
  EXPECT_EQ(add(true, 0), 1);  // nothing to learn from: neither finite nor not
  EXPECT_EQ(add(true, 5), 2);
}

TEST(StepLedgerTest, TheSameBatchAgainHasItsRecordedResult) {
  StepLedger ledger;
  EXPECT_FALSE(ledger.Find(1, "a")->has_value());
  ledger.Add({.step = 1, .batch_id = "a", .loss = 7});
  EXPECT_EQ((*ledger.Find(1, "a"))->loss, 7);
  EXPECT_FALSE(ledger.Find(2, "b")->has_value());
}

TEST(StepLedgerTest, GapsAndOtherBatchesAreRefusedWithTheirNumbers) {
  StepLedger ledger;
  ledger.Add({.step = 1, .batch_id = "a"});
  EXPECT_THAT(std::string(ledger.Find(3, "c").status().message()), HasSubstr("step=3"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ledger.Find(3, "c").status()));
  EXPECT_THAT(std::string(ledger.Find(1, "x").status().message()), HasSubstr("batch_id=x"));
  EXPECT_TRUE(absl::IsFailedPrecondition(ledger.Find(0, "a").status()));
}

TEST(StepLedgerTest, OnlyTheLatestResultsAreRemembered) {
  StepLedger ledger;
  const auto many = static_cast<int64_t>(StepLedger::kRemembered) + 5;
  for (int64_t i = 1; i <= many; ++i) ledger.Add({.step = i, .batch_id = std::to_string(i)});
  EXPECT_TRUE(absl::IsFailedPrecondition(ledger.Find(5, "5").status()));
  EXPECT_TRUE(ledger.Find(6, "6")->has_value());
  EXPECT_TRUE(StepLedger::Restore(many, ledger.results(), ledger.chain()).ok());
  EXPECT_FALSE(StepLedger::Restore(many + 1, ledger.results(), ledger.chain()).ok());
}

TEST(StepLedgerTest, TheChainIsOfAllBatchesAlsoOfThoseThatAreForgotten) {
  StepLedger ledger;
  const auto many = static_cast<int64_t>(StepLedger::kRemembered) + 5;
  rl::BatchChain all, other;
  for (int64_t i = 1; i <= many; ++i) {
    ledger.Add({.step = i, .batch_id = std::to_string(i)});
    all.Add(i, std::to_string(i));
    other.Add(i, i == 3 ? "another" : std::to_string(i));
  }
  EXPECT_EQ(ledger.chain(), all);
  EXPECT_NE(ledger.chain(), other);
  const auto restored = StepLedger::Restore(many, ledger.results(), ledger.chain());
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->chain(), all);
}

TEST(StepLedgerTest, SavedWithoutAChainItBeginsWithWhatIsRemembered) {
  StepLedger ledger;
  const auto many = static_cast<int64_t>(StepLedger::kRemembered) + 5;
  for (int64_t i = 1; i <= many; ++i) ledger.Add({.step = i, .batch_id = std::to_string(i)});
  const auto restored = StepLedger::Restore(many, ledger.results(), std::nullopt);
  ASSERT_TRUE(restored.ok()) << restored.status();
  EXPECT_EQ(restored->chain().first, 6);
  rl::BatchChain remembered{.first = 6};
  for (int64_t i = 6; i <= many; ++i) remembered.Add(i, std::to_string(i));
  EXPECT_EQ(restored->chain(), remembered);
  for (const int64_t first : {0, 7}) {
    const auto refused = StepLedger::Restore(many, ledger.results(), rl::BatchChain{first});
    EXPECT_THAT(std::string(refused.status().message()),
                HasSubstr("chain.first=" + std::to_string(first)));
  }
}

}  // namespace
}  // namespace palimpsest::trainer
