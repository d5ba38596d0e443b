#include "services/trainer/engine/cost.h"

#include <algorithm>
#include <cmath>
#include <numeric>

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
      const double kept = e.forced()
                              ? e.event.kept.max_count()
                              : context::KeptCount(e.event.method, e.keep_ratio,
                                                   static_cast<int32_t>(std::lround(before)));
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

SequenceCost CostOf(const attention::ReplaySequence& s, double pair_cost) {
  const int32_t prompt = s.prompt_tokens;
  return {.prompt = prompt + pair_cost * AttentionPairs(s, 0, prompt),
          .own = s.rows - prompt + pair_cost * AttentionPairs(s, prompt, s.rows)};
}

}  // namespace palimpsest::trainer
