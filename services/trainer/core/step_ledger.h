#pragma once

#include <cstdint>
#include <deque>
#include <optional>

#include "common/base/status.h"
#include "common/rl/batch_chain.h"
#include "services/trainer/core/batch.h"

namespace palimpsest::trainer {

// Which batch became which step: what makes TrainBatch idempotent. It is saved with the weights, so
// the two never disagree. Remembers the latest kRemembered results.
class StepLedger {
 public:
  static constexpr size_t kRemembered = 256;

  int64_t step() const { return step_; }
  const std::deque<StepResult>& results() const { return results_; }  // ascending by step

  // Of all batches, those too that are no longer remembered.
  const rl::BatchChain& chain() const { return chain_; }

  // nullopt: the batch is the next one, train it. A result: it was trained. FAILED_PRECONDITION: a
  // gap, another batch at a trained step, or a step that is no longer remembered.
  absl::StatusOr<std::optional<StepResult>> Find(int64_t step, const std::string& batch_id) const;

  // Steps at the end whose loss or gradient was not finite; those with nothing to learn are passed
  // over. At most kRemembered.
  int64_t NotFiniteInARow() const;

  // `result` is of step() + 1.
  void Add(StepResult result);

  // As it was saved; refuses results that do not end at `step` or have gaps. Saved without a chain,
  // it has one that begins with the results.
  static absl::StatusOr<StepLedger> Restore(int64_t step, std::deque<StepResult> results,
                                            std::optional<rl::BatchChain> chain);

 private:
  int64_t step_ = 0;
  std::deque<StepResult> results_;
  rl::BatchChain chain_;
};

}  // namespace palimpsest::trainer
