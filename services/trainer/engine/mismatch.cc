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

std::vector<MismatchBucket> Mismatch::Sums() const {
  std::vector<MismatchBucket> all;
  for (const auto& [events, sums] : sums_) all.push_back(sums);
  return all;
}

void Mismatch::Add(std::span<const MismatchBucket> others) {
  for (const MismatchBucket& other : others) {
    MismatchBucket& sums = sums_[other.events];
    sums.events = other.events;
    sums.tokens += other.tokens;
    sums.kl += other.kl;
    sums.mean_abs += other.mean_abs;
    sums.max_abs = std::max(sums.max_abs, other.max_abs);
  }
}

}  // namespace palimpsest::trainer
