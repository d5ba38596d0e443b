#include "common/rl/sampling.h"

#include <limits>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace palimpsest::rl {
namespace {

using ::testing::HasSubstr;

TEST(SamplingParamsTest, DefaultsAreLegalAndChangeNothing) {
  EXPECT_TRUE(Validate(SamplingParams{}).ok());
  EXPECT_FALSE(ChangesDistribution(SamplingParams{}));
}

TEST(SamplingParamsTest, EveryFieldOutOfRangeIsRefusedByItsName) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const std::pair<const char*, SamplingParams> broken[] = {
      {"temperature", {.temperature = -1}},
      {"temperature", {.temperature = kNan}},
      {"top_k", {.top_k = -1}},
      {"top_p", {.top_p = 0}},
      {"top_p", {.top_p = kNan}},
      {"min_p", {.min_p = 1}},
      {"repetition_penalty", {.repetition_penalty = 0}},
      {"presence_penalty", {.presence_penalty = 2.5}},
      {"frequency_penalty", {.frequency_penalty = kNan}},
      {"logit_bias[-1]", {.logit_bias = {{-1, 0.f}}}},
      {"logit_bias[7]", {.logit_bias = {{7, 101.f}}}},
      {"stop_ids[1]", {.stop_ids = {3, -3}}},
      {"stop_strings[0]", {.stop_strings = {""}}},
      {"stop_strings", {.stop_strings = std::vector<std::string>(17, "x")}},
      {"max_tokens", {.max_tokens = 0}},
      {"min_tokens", {.min_tokens = -1}},
      {"min_tokens", {.max_tokens = 4, .min_tokens = 5}},
      {"top_logprobs", {.top_logprobs = 101}},
      {"prompt_logprobs", {.prompt_logprobs = -1}},
  };
  for (const auto& [field, params] : broken) {
    const absl::Status status = Validate(params);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_EQ(std::string(status.message()).rfind(field, 0), 0u) << field << ": " << status;
  }
}

TEST(SamplingParamsTest, OnlyWhatBendsTheRecordedDistributionIsFlagged) {
  EXPECT_TRUE(ChangesDistribution({.top_k = 5}));
  EXPECT_TRUE(ChangesDistribution({.top_p = 0.9}));
  EXPECT_TRUE(ChangesDistribution({.min_p = 0.1}));
  EXPECT_TRUE(ChangesDistribution({.repetition_penalty = 1.1}));
  EXPECT_TRUE(ChangesDistribution({.temperature = 0, .presence_penalty = 1}));
  EXPECT_TRUE(ChangesDistribution({.logit_bias = {{4, 1.f}}}));
  EXPECT_FALSE(ChangesDistribution({.logit_bias = {{4, 0.f}}}));
  EXPECT_FALSE(ChangesDistribution({.temperature = 0.7, .max_tokens = 3, .seed = 9}));
  EXPECT_FALSE(ChangesDistribution({.temperature = 0, .top_p = 0.9}));
}

TEST(BudgetMessagesTest, MessagesThatWouldNeverBeInjectedAreRefused) {
  EXPECT_TRUE(Validate(BudgetMessages{.text = "used {used}", .every = 10}).ok());
  EXPECT_TRUE(Validate(BudgetMessages{.text = "used {used}", .at_events = true}).ok());
  EXPECT_THAT(Validate(BudgetMessages{.text = "used {used}"}).ToString(), HasSubstr("every"));
  EXPECT_THAT(Validate(BudgetMessages{.every = 10}).ToString(), HasSubstr("text"));
  EXPECT_THAT(Validate(BudgetMessages{.text = std::string(1025, 'x'), .every = 1}).ToString(),
              HasSubstr("text has 1025 bytes"));
  EXPECT_THAT(Validate(BudgetMessages{.text = "x", .every = -1}).ToString(), HasSubstr("every"));
}

}  // namespace
}  // namespace palimpsest::rl
