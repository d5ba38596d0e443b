#pragma once

#include <map>
#include <vector>

#include "services/trainer/core/batch.h"
#include "services/trainer/engine/replay_pass.h"

namespace palimpsest::trainer {

// Recomputed against recorded log-probabilities, split by how many events the row that predicted
// the token had seen.
class Mismatch {
 public:
  void Add(const PassTokens& pass);
  std::vector<MismatchBucket> Buckets() const;

  // Not yet divided, so that those of several add up.
  std::vector<MismatchBucket> Sums() const;
  void Add(std::span<const MismatchBucket> sums);

 private:
  std::map<int32_t, MismatchBucket> sums_;  // kl and mean_abs are sums here
};

}  // namespace palimpsest::trainer
