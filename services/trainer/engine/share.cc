#include "services/trainer/engine/share.h"

#include "common/rl/split.h"
#include "services/trainer/engine/cost.h"
#include "services/trainer/engine/sequences.h"

namespace palimpsest::trainer {

std::vector<LossSequence> ShareOf(std::vector<LossSequence> sequences,
                                  const model::ModelConfig& config, int rank, int size) {
  if (size == 1) return sequences;
  const double pair_cost = PairCost(config);
  const std::vector<int64_t> groups = PromptGroups(sequences);
  std::vector<rl::SplitItem> items;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const SequenceCost cost = CostOf(sequences[i].replay, pair_cost);
    items.push_back({.group = groups[i], .prompt_cost = cost.prompt, .own_cost = cost.own});
  }
  const std::vector<int> rank_of = rl::SplitOverRanks(items, size);
  std::vector<LossSequence> share;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (rank_of[i] == rank) share.push_back(std::move(sequences[i]));
  }
  return share;
}

}  // namespace palimpsest::trainer
