#include "services/trainer/engine/cost.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "common/base/random.h"
#include "common/model/decoder.h"
#include "services/trainer/engine/model_source.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"

namespace palimpsest::trainer {
namespace {

// Row by row: what is live is a list of slots, and an event makes few of many.
double CountPairs(const attention::ReplaySequence& sequence, int32_t begin, int32_t end,
                  bool with_events = true) {
  std::vector<int32_t> live;  // where each slot's tokens began
  double pairs = 0;
  for (int32_t row = 0; row < end; ++row) {
    for (const attention::ReplayEvent& e : sequence.events) {
      if (e.event.at != row || !with_events) continue;
      std::vector<int32_t> left, inside;
      for (const int32_t p : live) (e.event.window.contains(p) ? inside : left).push_back(p);
      const int kept =
          context::KeptCount(e.event.method, e.keep_ratio, static_cast<int32_t>(inside.size()));
      left.insert(left.end(), inside.begin(), inside.begin() + kept);
      live = std::move(left);
    }
    live.push_back(row);
    if (row >= begin) pairs += static_cast<double>(live.size());
  }
  return pairs;
}

TEST(CostTest, PairsAreThoseOfTheLiveSlots) {
  const std::vector<int32_t> tokens(20);
  attention::ReplaySequence sequence{.tokens = tokens, .prompt_tokens = 4, .rows = 20};
  EXPECT_EQ(AttentionPairs(sequence, 0, 20), 20 * 21 / 2);
  EXPECT_EQ(AttentionPairs(sequence, 4, 20), 20 * 21 / 2 - 4 * 5 / 2);
  // At 10 the six slots of [4, 10) become two: rows 10 to 19 see 10 - 4 = 6 slots and themselves.
  sequence.events.push_back(
      {.event = {.at = 10, .window = {4, 10}, .method = context::Method::kEvict},
       .keep_ratio = 0.34});
  EXPECT_NEAR(AttentionPairs(sequence, 0, 20), 10 * 11 / 2 + (7 + 16) * 10 / 2, 1e-9);
}

TEST(CostTest, OverRandomLogsTheyAreThoseThatARowByRowWalkCounts) {
  RandomStream random(3);
  double without = 0, counted = 0;
  for (int trial = 0; trial < 100; ++trial) {
    const auto rows = static_cast<int32_t>(random.Between(8, 120));
    const auto prompt = static_cast<int32_t>(random.Below(rows));
    const std::vector<int32_t> tokens(static_cast<size_t>(rows));
    attention::ReplaySequence sequence{.tokens = tokens, .prompt_tokens = prompt, .rows = rows};
    // Each window begins where the prompt ends and takes in all blocks before it.
    for (int32_t at = prompt + 2; at < rows; at += static_cast<int32_t>(random.Between(1, 30))) {
      sequence.events.push_back(
          {.event = {.at = at,
                     .window = {prompt, at - static_cast<int32_t>(random.Below(2))},
                     .method = context::Method::kEvict},
           .keep_ratio = random.Uniform()});
    }
    const auto begin = static_cast<int32_t>(random.Below(rows));
    const double pairs = CountPairs(sequence, begin, rows);
    EXPECT_NEAR(AttentionPairs(sequence, begin, rows), pairs, 1e-9 * pairs) << trial;
    EXPECT_NEAR(AttentionPairs(sequence, 0, begin), CountPairs(sequence, 0, begin), 1e-6);
    const SequenceCost cost = CostOf(sequence, 0.25);
    EXPECT_NEAR(cost.prompt, prompt + 0.25 * CountPairs(sequence, 0, prompt), 1e-6);
    EXPECT_NEAR(cost.own, rows - prompt + 0.25 * CountPairs(sequence, prompt, rows), 1e-6);
    counted += pairs;
    without += CountPairs(sequence, begin, rows, false);
  }
  EXPECT_GT(without, 1.2 * counted) << "the control: a count without events is far off";
}

TEST(CostTest, APairIsWorthItsMultiplicationsOverThoseOfARow) {
  const EngineOptions options = TinyOptions("unused", "a");
  const auto source = MakeModel(options.model, 1, model::DType::kFloat32);
  ASSERT_TRUE(source.ok()) << source.status();
  const model::ModelConfig& config = source->decoder->config();
  // Every entry of a matrix is one multiplication of a row; the embedding is looked up, and as the
  // head multiplied.
  double row = static_cast<double>(source->decoder->HeadWeight().numel());
  for (const auto& [name, tensor] : source->decoder->Parameters()) {
    if (tensor.dim() == 2 && name.starts_with("model.layers."))
      row += static_cast<double>(tensor.numel());
  }
  double pair = 0;
  for (int layer = 0; layer < config.layers; ++layer) {
    for (int head = 0; head < config.heads; ++head) pair += 2 * config.head_dim;
  }
  EXPECT_NEAR(PairCost(config), pair / row, 1e-12);
  model::ModelConfig wide = config;
  wide.intermediate *= 2;
  EXPECT_LT(PairCost(wide), 0.9 * pair / row) << "the control";
}

}  // namespace
}  // namespace palimpsest::trainer
