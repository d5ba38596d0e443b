// A GPU without memory, at every allocation there is: over the emulation, whose graphs replay what
// was captured and whose memory, once given back, is watched.
#include "common/cuda/emulated_device.h"
#include "tests/unit/services/inference/engine/device_testing.h"

namespace palimpsest::inference {
namespace {

class DeviceMemoryTest : public DeviceTest {
 protected:
  // In this order, each when the one before has ended: rows that decode come to be replayed, then
  // chunks and more rows make all buffers larger, then the same few rows decode again.
  static std::vector<GenerationRequest> Scenario() {
    std::vector<GenerationRequest> asked = {Ask("a", 1, 5, 3), Ask("many", 3, 4, 40),
                                            Ask("compacted", 1, 22), Ask("z", 1, 5, 3)};
    asked[2].context = Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
    return asked;
  }
  // Tokens of each sample, or nothing of one that failed.
  static std::vector<std::vector<int32_t>> Play(Engine& engine) {
    std::vector<std::vector<int32_t>> tokens;
    for (const GenerationRequest& r : Scenario()) {
      const auto sink = Generate(engine, r);
      for (int i = 0; i < r.n; ++i) {
        const auto found = sink->finished.find(i);
        tokens.push_back(found == sink->finished.end() ? std::vector<int32_t>()
                                                       : found->second.rollout.tokens);
      }
    }
    return tokens;
  }
};

TEST_F(DeviceMemoryTest, AfterAnyAllocationThatFailsItGivesTheSameTokens) {
  auto undisturbed = Start(On("cuda"));
  cuda::FailTake(0);
  const auto tokens = Play(*undisturbed);
  const int64_t takes = cuda::FailTake(0);
  ASSERT_GE(takes, 30);
  int64_t failed = 0;
  for (int64_t nth = 1; nth <= takes; ++nth) {
    SCOPED_TRACE(nth);
    auto engine = Start(On("cuda"));
    cuda::FailTake(nth);
    const auto disturbed = Play(*engine);
    cuda::FailTake(0);
    ASSERT_EQ(disturbed.size(), tokens.size());
    for (size_t i = 0; i < tokens.size(); ++i) {
      if (disturbed[i].empty()) {
        ++failed;
      } else {
        EXPECT_EQ(disturbed[i], tokens[i]) << i;
      }
    }
    EXPECT_EQ(Play(*engine), tokens);
    EXPECT_TRUE(engine->lost().ok()) << engine->lost();
    ExpectPoolWhole(*engine);
    cuda::CheckGivenBack();
  }
  EXPECT_GE(failed, takes / 2);
}

// Rings lie on the shelf, memory is short: they are given back before anything fails.
TEST_F(DeviceMemoryTest, TheShelfIsEmptiedBeforeAnAllocationFails) {
  auto engine = Start(On("cuda"));
  GenerationRequest small = Ask("small", 1, 20), large = Ask("large", 1, 20);
  small.context = large.context =
      Budget(context::Method::kAttentionMatching, context::Chooser::kRms);
  large.context.reference_tokens = 12;
  ASSERT_EQ(Generate(*engine, small)->finished.size(), 1u);
  const auto undisturbed = Start(On("cuda"));
  const auto expected = Generate(*undisturbed, large)->finished.at(0).rollout.tokens;
  cuda::FailTake(1);  // the ring's first try
  const auto sink = Generate(*engine, large);
  cuda::FailTake(0);
  ASSERT_EQ(sink->finished.size(), 1u);
  EXPECT_EQ(sink->finished.at(0).rollout.tokens, expected);
}

TEST_F(DeviceMemoryTest, NewWeightsWithoutMemoryLeaveTheOldOnes) {
  auto engine = Start(On("cuda"));
  const auto update = [&] {
    return engine->UpdateWeights(Folder(2), PolicyVersion(2), WeightsMode::kKeep).status();
  };
  const auto tokens = [&] {
    return Generate(*engine, Ask("t", 1, 6))->finished.at(0).rollout.tokens;
  };
  const auto old = tokens();
  cuda::FailTake(1);
  const absl::Status refused = update();
  cuda::FailTake(0);
  EXPECT_TRUE(absl::IsResourceExhausted(refused)) << refused;
  EXPECT_EQ(tokens(), old);
  const absl::Status taken = update();
  EXPECT_TRUE(taken.ok()) << taken;
  EXPECT_NE(tokens(), old);
}

}  // namespace
}  // namespace palimpsest::inference
