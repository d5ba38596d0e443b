#include "services/trainer/engine/share.h"

#include <algorithm>
#include <numeric>

#include "common/rl/split.h"
#include "services/trainer/engine/sequences.h"

namespace palimpsest::trainer {

double AttentionPairs(const attention::ReplaySequence& sequence, int32_t begin, int32_t end) {
  // By source position, how much of a slot is live.
  std::vector<double> live(static_cast<size_t>(sequence.rows), 0);
  double slots = 0, pairs = 0;
  size_t next = 0;
  for (int32_t row = 0; row < std::min(end, sequence.rows); ++row) {
    for (; next < sequence.events.size() && sequence.events[next].event.at <= row; ++next) {
      const attention::ReplayEvent& e = sequence.events[next];
      const auto first = live.begin() + e.event.window.begin,
                 last = live.begin() + e.event.window.end;
      const double before = std::accumulate(first, last, 0.0);
      const double kept = e.forced() ? e.event.kept.max_count()
                                     : context::KeptCount(e.event.method, e.keep_ratio,
                                                          static_cast<int32_t>(before));
      std::fill(first, last, kept / e.event.window.size());
      slots += kept - before;
    }
    live[static_cast<size_t>(row)] = 1;
    slots += 1;
    if (row >= begin) pairs += slots;
  }
  return pairs;
}

double PairCost(const model::ModelConfig& c) {
  const double hidden = c.hidden, q = double{1} * c.heads * c.head_dim;
  const double kv = double{1} * c.kv_heads * c.head_dim;
  const double layer = 2 * hidden * (q + kv) + 3 * hidden * c.intermediate;
  const double row = c.layers * layer + hidden * c.vocab;
  return 2 * q * c.layers / row;  // a score and a weighted value
}

std::vector<LossSequence> ShareOf(std::vector<LossSequence> sequences,
                                  const model::ModelConfig& config, int rank, int size) {
  if (size == 1) return sequences;
  const double pair_cost = PairCost(config);
  const std::vector<int64_t> groups = PromptGroups(sequences);
  std::vector<rl::SplitItem> items;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const attention::ReplaySequence& s = sequences[i].replay;
    const int32_t prompt = s.prompt_tokens, own = s.rows - prompt;
    items.push_back({.group = groups[i],
                     .prompt_cost = prompt + pair_cost * AttentionPairs(s, 0, prompt),
                     .own_cost = own + pair_cost * AttentionPairs(s, prompt, s.rows)});
  }
  const std::vector<int> rank_of = rl::SplitOverRanks(items, size);
  std::vector<LossSequence> share;
  for (size_t i = 0; i < sequences.size(); ++i) {
    if (rank_of[i] == rank) share.push_back(std::move(sequences[i]));
  }
  return share;
}

}  // namespace palimpsest::trainer
