#include "services/trainer/engine/share.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <map>

#include "common/base/random.h"
#include "services/trainer/engine/cost.h"
#include "services/trainer/engine/sequences.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"

namespace palimpsest::trainer {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

model::ModelConfig TinyConfig() {
  const EngineOptions options = TinyOptions("unused", "a");
  const auto source = MakeModel(options.model, 1, model::DType::kFloat32);
  EXPECT_TRUE(source.ok()) << source.status();
  return source->decoder->config();
}

// `tokens` outlives them: groups of four of one prompt and of lengths that differ.
std::vector<LossSequence> Sequences(const std::vector<std::vector<int32_t>>& tokens) {
  std::vector<LossSequence> sequences;
  for (size_t i = 0; i < tokens.size(); ++i) {
    LossSequence s{.item = static_cast<int32_t>(i)};
    s.replay = {.tokens = tokens[i],
                .prompt_tokens = kPrompt,
                .rows = static_cast<int32_t>(tokens[i].size()) - 1};
    s.tokens.push_back({.position = kPrompt, .weight = 1});
    sequences.push_back(s);
  }
  return sequences;
}

std::vector<std::vector<int32_t>> RandomTokenLists(int items) {
  RandomStream random(4);
  std::vector<std::vector<int32_t>> lists;
  for (int i = 0; i < items; ++i) {
    lists.push_back(RandomTokens(50 + i, i / 4));
    lists.back().resize(static_cast<size_t>(random.Between(kPrompt + 2, kTokens)));
  }
  return lists;
}

std::vector<int32_t> Items(const std::vector<LossSequence>& sequences) {
  std::vector<int32_t> items;
  for (const LossSequence& s : sequences) items.push_back(s.item);
  return items;
}

TEST(ShareTest, EverySequenceIsOneRanksInTheOrderOfTheBatchAndNoRankHasMuchMoreToDo) {
  const auto tokens = RandomTokenLists(40);
  const model::ModelConfig config = TinyConfig();
  for (const int ranks : {2, 3, 4}) {
    std::vector<int> seen(tokens.size(), 0);
    std::vector<double> loads;
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<LossSequence> share = ShareOf(Sequences(tokens), config, rank, ranks);
      const std::vector<int32_t> items = Items(share);
      EXPECT_TRUE(std::is_sorted(items.begin(), items.end()));
      for (const int32_t i : items) ++seen[i];
      std::map<int64_t, double> prompts;
      const std::vector<int64_t> groups = PromptGroups(share);
      loads.push_back(0);
      for (size_t i = 0; i < share.size(); ++i) {
        const SequenceCost cost = CostOf(share[i].replay, PairCost(config));
        loads.back() += cost.own;
        prompts[groups[i]] = cost.prompt;
      }
      for (const auto& [group, cost] : prompts) loads.back() += cost;
    }
    EXPECT_THAT(seen, ::testing::Each(1));
    double total = 0;
    for (const double load : loads) total += load;
    EXPECT_LE(*std::max_element(loads.begin(), loads.end()), 1.25 * total / ranks) << ranks;
  }
}

TEST(ShareTest, ASequenceWithALogCostsLessSoItsRankTakesMore) {
  // Two long ones and two short ones; the dearest goes to rank 0, a short one to the cheaper rank.
  std::vector<std::vector<int32_t>> tokens;
  for (int i = 0; i < 2; ++i) tokens.push_back(RandomTokens(60 + i, i));
  for (int i = 2; i < 4; ++i) {
    tokens.push_back(RandomTokens(60 + i, i));
    tokens.back().resize(12);
  }
  std::vector<LossSequence> sequences = Sequences(tokens);
  const model::ModelConfig config = TinyConfig();
  EXPECT_THAT(Items(ShareOf(sequences, config, 0, 2)), ElementsAre(0, 2)) << "the control";
  sequences[0].replay.events.push_back(
      {.event = {.at = 20, .window = {kPrompt, 20}, .method = context::Method::kEvict},
       .keep_ratio = 0.1});
  EXPECT_THAT(Items(ShareOf(sequences, config, 0, 2)), ElementsAre(1, 3));
  EXPECT_THAT(Items(ShareOf(sequences, config, 1, 2)), ElementsAre(0, 2));
}

TEST(ShareTest, OneRankHasAllAndOneTooManyNothing) {
  const auto tokens = RandomTokenLists(2);
  EXPECT_THAT(Items(ShareOf(Sequences(tokens), TinyConfig(), 0, 1)), ElementsAre(0, 1));
  EXPECT_THAT(ShareOf(Sequences(tokens), TinyConfig(), 2, 3), IsEmpty());
}

}  // namespace
}  // namespace palimpsest::trainer
