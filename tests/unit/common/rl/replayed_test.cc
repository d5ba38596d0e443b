#include "common/rl/replayed.h"

#include <gmock/gmock.h>

namespace palimpsest::rl {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;

Rollout TwoTurns() {
  return {.id = "r",
          .origins = {Origin::kPrompt, Origin::kSampled, Origin::kInjected, Origin::kSampled,
                      Origin::kSampled}};
}

TEST(ReplayedTest, EachSampledTokenGetsItsOwnAndTheOthersGetZero) {
  EXPECT_EQ(SampledTokens(TwoTurns()), 3);
  const auto all = ByPosition(TwoTurns(), std::vector<float>{-1, -2, -3});
  ASSERT_TRUE(all.ok()) << all.status();
  EXPECT_THAT(*all, ElementsAre(0, -1, 0, -2, -3));
}

TEST(ReplayedTest, AnotherNumberOfThemIsDataLossAndNamesTheRollout) {
  for (const size_t n : {0, 2, 4}) {
    const absl::Status status = ByPosition(TwoTurns(), std::vector<float>(n)).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << n;
    EXPECT_THAT(std::string(status.message()), HasSubstr("r: " + std::to_string(n)));
    EXPECT_THAT(std::string(status.message()), HasSubstr("for 3 sampled tokens"));
  }
}

}  // namespace
}  // namespace palimpsest::rl
