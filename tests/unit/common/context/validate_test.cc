#include <gmock/gmock.h>

#include <cmath>
#include <limits>

#include "common/context/policy.h"

namespace palimpsest::context {
namespace {

constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

std::string Why(const ContextPolicy& policy, int32_t prompt = 100) {
  const absl::Status status = Validate(policy, prompt);
  if (status.ok()) return "ok";
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  return std::string(status.message());
}

ContextPolicy With(decltype(ContextPolicy::trigger) trigger,
                   Method method = Method::kAttentionMatching) {
  ContextPolicy policy{.trigger = trigger, .method = method};
  policy.parameters.chooser = DefaultChooser(method);
  return policy;
}

TEST(ValidatePolicyTest, AcceptsEveryTriggerWithOrdinaryValues) {
  for (auto m : {Method::kAttentionMatching, Method::kEvict, Method::kMarkovian}) {
    EXPECT_EQ(Why(With(NoTrigger{}, m)), "ok");
    EXPECT_EQ(Why(With(KvBudget{512, 256, 0.25}, m)), "ok");
    EXPECT_EQ(Why(With(Segments{256, 128, 0.25}, m)), "ok");
    EXPECT_EQ(Why(With(Turns{1, std::nullopt, 0.25}, m)), "ok");
    EXPECT_EQ(Why(With(Manual{0.25}, m)), "ok");
  }
}

TEST(ValidatePolicyTest, ABudgetThatCannotHoldProtectedTokensAndAWindowIsRefusedWithTheValues) {
  EXPECT_EQ(Why(With(KvBudget{164, 64, 0.25})), "ok");
  EXPECT_EQ(Why(With(KvBudget{163, 64, 0.25})),
            "kv_budget.budget=163 is less than 100 protected tokens + window=64");
  ContextPolicy fewer = With(KvBudget{163, 64, 0.25});
  fewer.protect = 99;
  EXPECT_EQ(Why(fewer), "ok");
  ContextPolicy huge = With(KvBudget{kMax, kMax, 0.25});
  EXPECT_THAT(Why(huge), testing::StartsWith("kv_budget.budget="));
}

TEST(ValidatePolicyTest, AShareOfTheBudgetIsNeitherNegativeNorAllOfIt) {
  for (double good : {0.0, 0.25, 0.999}) EXPECT_EQ(Why(With(KvBudget{512, 64, 0.25, good})), "ok");
  for (double bad : {1.0, -0.25, std::nan(""), HUGE_VAL}) {
    EXPECT_THAT(Why(With(KvBudget{512, 64, 0.25, bad})), testing::StartsWith("kv_budget.early="));
  }
}

TEST(ValidatePolicyTest, AnEventThatWouldKeepEverythingIsRefused) {
  EXPECT_EQ(Why(With(KvBudget{512, 1, 0.25})),
            "kv_budget.keep_ratio=0.25 keeps 1 of window=1 slots: an event would drop nothing");
  EXPECT_EQ(Why(With(Segments{8, 1, 0})),
            "segments.keep_ratio=0 keeps 1 of window=1 slots: an event would drop nothing");
  EXPECT_EQ(Why(With(KvBudget{512, 1, 0.25}, Method::kEvict)), "ok") << "it keeps none";
  EXPECT_EQ(Why(With(KvBudget{512, 2, 0.999})), "ok");
}

TEST(ValidatePolicyTest, RatiosOutsideOfZeroToOneAreRefusedUnlessNothingIsKept) {
  for (double bad : {1.0, -0.01, 1.5, std::nan(""), HUGE_VAL}) {
    EXPECT_THAT(Why(With(KvBudget{512, 64, bad})), testing::StartsWith("kv_budget.keep_ratio="));
    EXPECT_THAT(Why(With(Segments{64, 64, bad})), testing::StartsWith("segments.keep_ratio="));
    EXPECT_THAT(Why(With(Turns{1, std::nullopt, bad})), testing::StartsWith("turns.keep_ratio="));
    EXPECT_THAT(Why(With(Manual{bad})), testing::StartsWith("manual.keep_ratio="));
    EXPECT_EQ(Why(With(KvBudget{512, 64, bad}, Method::kMarkovian)), "ok");
    EXPECT_EQ(Why(With(Manual{bad}, Method::kMarkovian)), "ok");
  }
}

TEST(ValidatePolicyTest, EveryFieldOutOfRangeIsNamed) {
  EXPECT_THAT(Why(With(KvBudget{0, 64, 0.25})), testing::StartsWith("kv_budget.budget=0"));
  EXPECT_THAT(Why(With(KvBudget{512, 0, 0.25})), testing::StartsWith("kv_budget.window=0"));
  EXPECT_THAT(Why(With(KvBudget{512, -5, 0.25})), testing::StartsWith("kv_budget.window=-5"));
  EXPECT_THAT(Why(With(Segments{0, 64, 0.25})), testing::StartsWith("segments.every=0"));
  EXPECT_THAT(Why(With(Segments{64, 0, 0.25})), testing::StartsWith("segments.window=0"));
  EXPECT_THAT(Why(With(Turns{-1, std::nullopt, 0.25})),
              testing::StartsWith("turns.n_protect_turns=-1"));
  EXPECT_THAT(Why(With(Turns{2, 2, 0.25})), testing::StartsWith("turns.max_turns=2"));
  EXPECT_EQ(Why(With(Turns{2, 3, 0.25})), "ok");
  ContextPolicy policy = With(Manual{});
  policy.reference_tokens = 0;
  EXPECT_THAT(Why(policy), testing::StartsWith("reference_tokens=0"));
  policy.method = Method::kMarkovian;
  EXPECT_EQ(Why(policy), "ok") << "without effect there";
  policy = With(Manual{});
  policy.protect = -1;
  EXPECT_THAT(Why(policy), testing::StartsWith("protect=-1"));
  policy = With(Manual{});
  policy.parameters.mu = -1;
  EXPECT_THAT(Why(policy), testing::StartsWith("mu=-1"));
  EXPECT_THAT(Why(With(Manual{}), -1), testing::StartsWith("prompt_tokens=-1"));
}

TEST(ValidatePolicyTest, TheChooserMustBeOneOfTheMethod) {
  ContextPolicy policy{.trigger = Manual{}, .method = Method::kEvict};  // rms by default
  EXPECT_EQ(Why(policy), "chooser=rms is not one of method=evict");
}

}  // namespace
}  // namespace palimpsest::context
