#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "tests/integration/shadow/two_daemons.h"
#include "tests/unit/common/weights/scratch_folder.h"

// What one daemon sampled with events, the other learns in every way of looking at it.
namespace palimpsest {
namespace {

using ::testing::HasSubstr;

struct Way {
  std::string name;
  std::vector<std::string> settings;  // of the trainer
  bool dense = false;                 // the learner's view
};

std::vector<Way> Ways() {
  const std::string shadow = "trainer.shadow.", loss = "trainer.loss.";
  const auto distils = [&](const char* kind) -> std::vector<std::string> {
    return {shadow + "distillation.kind=" + kind, shadow + "gates.kl_warn=1.0e-9",
            shadow + "bin=16"};
  };
  const std::vector<std::string> dense = {shadow + "view=dense", loss + "surrogate=cispo",
                                          loss + "clip_low=1"};
  std::vector<std::string> sparse_rl = dense, tis = dense;
  for (const char* setting : {"clip_high=0.5", "correction.kind=sparse_rl",
                              "correction.lower=1.0e-4", "correction.upper=1.5"}) {
    sparse_rl.push_back(loss + setting);
  }
  for (const char* setting : {"clip_high=1", "correction.kind=none"}) tis.push_back(loss + setting);
  return {{"d1", distils("d1")},
          {"d2", distils("d2")},
          {"d3", distils("d3")},
          {"sparse_rl", sparse_rl, true},
          {"tis", tis, true}};
}

constexpr double kHardlyMoving = 1e-9;  // a learning rate
constexpr double kMaxAbs = 2e-4;        // what replay owes sampling, fp32: nats

class ShadowTest : public ::testing::Test {
 protected:
  // Two groups of three that share their prompts, by both methods that leave something.
  std::vector<v1::Rollout> Sampled() {
    EXPECT_TRUE(daemons_.StartInference().ok());
    std::vector<v1::Rollout> rollouts;
    for (const auto method :
         {v1::COMPACTION_METHOD_ATTENTION_MATCHING, v1::COMPACTION_METHOD_EVICT}) {
      const auto group =
          daemons_.Generate(v1::CompactionMethod_Name(method), 3, method, EventsOf(method), 1);
      EXPECT_TRUE(group.ok()) << group.status();
      if (group.ok()) rollouts.insert(rollouts.end(), group->begin(), group->end());
    }
    EXPECT_EQ(rollouts.size(), 6u);
    for (const v1::Rollout& rollout : rollouts) EXPECT_GE(rollout.events_size(), 3);
    return rollouts;
  }

  weights::ScratchFolder scratch_;
  TwoDaemons daemons_{scratch_.path()};
};

TEST_F(ShadowTest, EveryWayOfLearningTakesStepsOnWhatTheOtherDaemonSampled) {
  std::vector<v1::Rollout> rollouts;
  int64_t step = 0;
  for (const Way& way : Ways()) {
    const absl::Status started = daemons_.StartTrainer(way.settings);
    ASSERT_TRUE(started.ok()) << started << daemons_.TrainerLog();
    if (rollouts.empty()) rollouts = Sampled();
    for (int i = 0; i < 3; ++i) {
      const auto trained = daemons_.Train(++step, rollouts, kHardlyMoving);
      ASSERT_TRUE(trained.ok()) << way.name << trained.status();
      EXPECT_EQ(trained->rejected_size(), 0) << trained->DebugString();
      EXPECT_FALSE(trained->skipped()) << way.name;
      EXPECT_GT(trained->grad_norm(), 0) << way.name;
      ASSERT_GE(trained->mismatch_size(), 4);
      for (const v1::MismatchBucket& bucket : trained->mismatch()) {
        if (bucket.events() == 0 || !way.dense) {
          EXPECT_LE(bucket.max_abs(), kMaxAbs) << way.name << bucket.events() << " events";
        } else {
          EXPECT_GT(bucket.max_abs(), 10 * kMaxAbs) << way.name << bucket.events() << " events";
        }
      }
    }
    EXPECT_EQ(daemons_.StopTrainer(), 0) << daemons_.TrainerLog();
    if (way.dense) continue;
    EXPECT_THAT(daemons_.TrainerLog(), HasSubstr("dense and shadow view are far apart"));
    EXPECT_THAT(daemons_.TrainerLog(), HasSubstr("gates.kl_warn"));
  }
}

TEST_F(ShadowTest, AGateThatStopsIsTheAnswerToTheNextBatchAndStandsInTheLog) {
  const std::vector<std::string> measured = {"trainer.shadow.measure_every=1",
                                             "trainer.shadow.gates.acceptance_stop=1",
                                             "trainer.shadow.gates.least_tokens=8"};
  ASSERT_TRUE(daemons_.StartTrainer(measured).ok()) << daemons_.TrainerLog();
  const std::vector<v1::Rollout> rollouts = Sampled();
  ASSERT_TRUE(daemons_.Train(1, rollouts, kHardlyMoving).ok());
  const absl::Status refused = daemons_.Train(2, rollouts, kHardlyMoving).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused)) << refused;
  EXPECT_THAT(std::string(refused.message()), HasSubstr("gates.acceptance_stop=1"));
  EXPECT_THAT(daemons_.TrainerLog(), HasSubstr("no more is learnt"));
  EXPECT_EQ(daemons_.StopTrainer(), 0);
  ASSERT_TRUE(daemons_.StartTrainer({}).ok()) << "without the gate";
  EXPECT_TRUE(daemons_.Train(2, rollouts, kHardlyMoving).ok());
}

}  // namespace
}  // namespace palimpsest
