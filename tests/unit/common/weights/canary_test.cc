#include "common/weights/canary.h"

#include <gtest/gtest.h>

namespace palimpsest::weights {
namespace {

TEST(CanaryTest, WhatIsWrittenIsReadBitForBit) {
  const std::vector<CanaryPrompt> prompts = {{{1, 2, 3}, {-0.1f, -3.3333333f}},
                                             {{0, 7}, {-1.17549435e-38f}}};
  const auto read = CanaryFromJson(ToJson(prompts));
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(*read, prompts);
}

TEST(CanaryTest, WhatIsNoneIsDataLossThatNamesTheKey) {
  const std::pair<const char*, const char*> broken[] = {
      {"{}", "prompts"},
      {R"({"prompts": []})", "prompts"},
      {R"({"prompts": [3]})", "prompts"},
      {R"({"prompts": [{"ids": [1], "logprobs": []}]})", "ids"},
      {R"({"prompts": [{"ids": [1, -2], "logprobs": [-1]}]})", "ids"},
      {R"({"prompts": [{"ids": [1, 4294967296], "logprobs": [-1]}]})", "ids"},
      {R"({"prompts": [{"ids": [1, 2], "logprobs": [-1, -2]}]})", "logprobs"},
      {R"({"prompts": [{"ids": [1, 2], "logprobs": [null]}]})", "logprobs"},
      {R"({"prompts": [{"ids": [1, 2], "logprobs": [-1e300]}]})", "logprobs"}};
  for (const auto& [text, key] : broken) {
    const absl::Status status = CanaryFromJson(text).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << text;
    EXPECT_NE(status.message().find(key), std::string::npos) << status;
  }
  EXPECT_TRUE(absl::IsDataLoss(CanaryFromJson("nothing").status()));
}

}  // namespace
}  // namespace palimpsest::weights
