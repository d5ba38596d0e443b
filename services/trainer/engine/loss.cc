#include "services/trainer/engine/loss.h"

#include <algorithm>
#include <utility>

namespace palimpsest::trainer {

void WeighTokens(const rl::AggregationOptions& aggregation, std::vector<LossSequence>& sequences) {
  std::vector<double> items;
  std::vector<int64_t> lengths;
  for (const LossSequence& sequence : sequences) {
    items.push_back(sequence.tokens.front().weight);
    lengths.push_back(static_cast<int64_t>(sequence.tokens.size()));
  }
  const std::vector<double> weights = rl::TokenWeights(aggregation, items, lengths);
  for (size_t i = 0; i < sequences.size(); ++i) {
    for (LossToken& token : sequences[i].tokens) token.weight = weights[i];
  }
}

LossValue Likelihood(const PassTokens& pass) {
  LossValue value;
  for (size_t i = 0; i < pass.tokens.size(); ++i) {
    const double weight = pass.tokens[i].token->weight;
    value.loss -= weight * pass.logprobs[i];
    value.of_logprobs.push_back(-weight);
  }
  return value;
}

LossValue PolicyLoss(const rl::ObjectiveOptions& options, const PassTokens& pass,
                     std::span<const double> reference, rl::ObjectiveSums& sums) {
  std::vector<double> recorded, advantages, weights;
  for (const TokenOutcome& t : pass.tokens) {
    recorded.push_back(t.token->recorded);
    advantages.push_back(t.token->advantage);
    weights.push_back(t.token->weight);
  }
  rl::ObjectiveResult result = rl::Objective(options, {.logprobs = pass.logprobs,
                                                       .recorded = recorded,
                                                       .advantages = advantages,
                                                       .weights = weights,
                                                       .sequences = pass.sequences,
                                                       .entropies = pass.entropies,
                                                       .reference = reference});
  sums.Add(result.sums);
  return {result.loss, std::move(result.of_logprobs), std::move(result.of_entropies)};
}

RatioStats StatsOf(const rl::ObjectiveSums& sums) {
  const auto tokens = static_cast<double>(std::max<int64_t>(1, sums.tokens));
  return {.mean = sums.ratio / tokens,
          .max = sums.max_ratio,
          .clip_share = static_cast<double>(sums.clipped) / tokens,
          .truncated_share = static_cast<double>(sums.truncated) / tokens,
          .effective_sample_size = sums.EffectiveShare(),
          .masked_share = static_cast<double>(sums.masked) / tokens};
}

}  // namespace palimpsest::trainer
