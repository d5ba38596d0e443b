#include "services/trainer/engine/mismatch.h"

#include <algorithm>
#include <cmath>

namespace palimpsest::trainer {

void Mismatch::Add(const PassTokens& pass) {
  for (size_t i = 0; i < pass.tokens.size(); ++i) {
    const LossToken& token = *pass.tokens[i].token;
    const auto& events = pass.tokens[i].sequence->replay.events;
    // The row at position - 1 saw the events with at < position.
    const auto seen = static_cast<int32_t>(std::count_if(
        events.begin(), events.end(),
        [&](const attention::ReplayEvent& e) { return e.event.at < token.position; }));
    const double difference = pass.logprobs[i] - token.recorded;
    MismatchBucket& sums = sums_[seen];
    sums.events = seen;
    ++sums.tokens;
    sums.kl += std::expm1(difference) - difference;
    sums.mean_abs += std::abs(difference);
    sums.max_abs = std::max(sums.max_abs, std::abs(difference));
  }
}

std::vector<MismatchBucket> Mismatch::Buckets() const {
  std::vector<MismatchBucket> buckets;
  for (const auto& [events, sums] : sums_) {
    buckets.push_back(sums);
    buckets.back().kl /= static_cast<double>(sums.tokens);
    buckets.back().mean_abs /= static_cast<double>(sums.tokens);
  }
  return buckets;
}

}  // namespace palimpsest::trainer
