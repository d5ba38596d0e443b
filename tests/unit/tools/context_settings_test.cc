#include "tools/context_settings.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace palimpsest::tools {
namespace {

using ::testing::HasSubstr;

absl::StatusOr<context::ContextPolicy> Parse(std::string_view name, std::vector<std::string> sets) {
  return ParseContextPolicy(name, sets);
}

TEST(ContextSettingsTest, EveryKeyReachesItsField) {
  const auto policy = Parse(
      "kv_budget",
      {"context.budget=56", "context.window=28", "context.keep_ratio=0.43", "context.method=evict",
       "context.reference_tokens=48", "context.protect=7", "context.stack=true",
       "context.after_window=true", "context.mu=0.5", "context.lambda=0.25", "context.log_lower=-3",
       "context.log_upper=4", "context.chooser=random", "context.reference_kind=keys",
       "context.seed=18446744073709551615", "context.holdout_every=4", "context.early=0.25"});
  ASSERT_TRUE(policy.ok()) << policy.status();
  context::ContextPolicy expected;
  expected.trigger =
      context::KvBudget{.budget = 56, .window = 28, .keep_ratio = 0.43, .early = 0.25};
  expected.method = context::Method::kEvict;
  expected.reference_tokens = 48;
  expected.protect = 7;
  expected.stack = true;
  expected.after_window = true;
  expected.parameters = {.mu = 0.5,
                         .lambda = 0.25,
                         .log_lower = -3,
                         .log_upper = 4,
                         .chooser = context::Chooser::kRandom,
                         .reference_kind = context::ReferenceKind::kKeys,
                         .seed = 18446744073709551615u,
                         .holdout_every = 4};
  EXPECT_EQ(*policy, expected);
}

TEST(ContextSettingsTest, TheChooserFollowsTheMethodUnlessItIsSet) {
  const auto chooser = [](std::vector<std::string> sets) {
    sets.insert(sets.end(), {"context.budget=56", "context.window=28"});
    return Parse("kv_budget", sets)->parameters.chooser;
  };
  EXPECT_EQ(chooser({"context.method=evict"}), context::Chooser::kAttention);
  EXPECT_EQ(chooser({"context.chooser=recent", "context.method=evict"}), context::Chooser::kRecent);
  EXPECT_EQ(chooser({}), context::Chooser::kRms);
}

TEST(ContextSettingsTest, ProtectPromptIsTheDefault) {
  const std::vector<std::string> sets = {"context.every=8", "context.window=4",
                                         "context.protect=prompt"};
  EXPECT_FALSE(Parse("segments", sets)->protect.has_value());
}

TEST(ContextSettingsTest, ANumberWithoutADefaultMustBeGiven) {
  const auto said = [](const char* name, std::vector<std::string> sets) {
    return std::string(Parse(name, sets).status().message());
  };
  EXPECT_EQ(said("kv_budget", {}), "--context kv_budget: context.budget is not given");
  EXPECT_EQ(said("kv_budget", {"context.budget=9"}),
            "--context kv_budget: context.window is not given");
  EXPECT_EQ(said("segments", {"context.window=9"}),
            "--context segments: context.every is not given");
}

TEST(ContextSettingsTest, SegmentsHasItsOwnKeys) {
  const auto policy = Parse("segments", {"context.every=30", "context.window=20"});
  EXPECT_EQ(std::get<context::Segments>(policy->trigger).every, 30);
  EXPECT_THAT(Parse("segments", {"context.budget=3"}).status().message(), HasSubstr("budget"));
  EXPECT_THAT(Parse("kv_budget", {"context.every=3"}).status().message(), HasSubstr("every"));
  EXPECT_THAT(Parse("segments", {"context.early=0.5"}).status().message(), HasSubstr("early"));
}

TEST(ContextSettingsTest, TurnsHasItsOwnKeys) {
  const auto policy = Parse("turns", {"context.n_protect_turns=2", "context.max_turns=5",
                                      "context.keep_ratio=0.2", "context.method=evict"});
  EXPECT_EQ(std::get<context::Turns>(policy->trigger),
            (context::Turns{.n_protect_turns = 2, .max_turns = 5, .keep_ratio = 0.2}));
  EXPECT_EQ(policy->parameters.chooser, context::Chooser::kAttention);
  EXPECT_EQ(
      std::get<context::Turns>(Parse("turns", {"context.n_protect_turns=0"})->trigger).max_turns,
      std::nullopt);
  EXPECT_EQ(Parse("turns", {}).status().message(),
            "--context turns: context.n_protect_turns is not given");
  EXPECT_THAT(Parse("turns", {"context.window=3"}).status().message(), HasSubstr("window"));
  EXPECT_FALSE(Parse("turns", {"context.max_turns=all"}).ok());
}

TEST(ContextSettingsTest, NoneTakesNoSettings) {
  EXPECT_EQ(*Parse("none", {}), context::ContextPolicy{});
  EXPECT_FALSE(Parse("none", {"context.budget=3"}).ok());
}

TEST(ContextSettingsTest, DoubtfulTextIsRefusedByName) {
  for (const char* set :
       {"context.budget=", "context.budget=5x", "context.budget=1.5", "context.keep_ratio=half",
        "context.stack=yes", "context.protect=-1", "context.method=shrink", "context.seed=-1",
        "context.bugdet=5", "budget=5", "context.budget", "context.early=soon"}) {
    const absl::Status status = Parse("kv_budget", {set}).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << set;
  }
  EXPECT_THAT(Parse("sometimes", {}).status().message(), HasSubstr("sometimes"));
}

}  // namespace
}  // namespace palimpsest::tools
