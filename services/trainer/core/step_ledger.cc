#include "services/trainer/core/step_ledger.h"

#include "absl/strings/str_format.h"

namespace palimpsest::trainer {

absl::StatusOr<std::optional<StepResult>> StepLedger::Find(int64_t step,
                                                           const std::string& batch_id) const {
  if (step == step_ + 1) return std::nullopt;
  if (step > step_) {
    return absl::FailedPreconditionError(
        absl::StrFormat("step=%d leaves a gap: the next one is %d", step, step_ + 1));
  }
  if (results_.empty() || step < results_.front().step) {
    return absl::FailedPreconditionError(
        absl::StrFormat("step=%d is no longer remembered: the trainer is at step %d", step, step_));
  }
  const StepResult& result = results_[static_cast<size_t>(step - results_.front().step)];
  if (result.batch_id != batch_id) {
    return absl::FailedPreconditionError(
        absl::StrFormat("batch_id=%s at step=%d, which was trained with batch_id=%s", batch_id,
                        step, result.batch_id));
  }
  return result;
}

int64_t StepLedger::NotFiniteInARow() const {
  int64_t count = 0;
  for (auto result = results_.rbegin(); result != results_.rend() && result->skipped; ++result) {
    count += result->loss_tokens > 0;
  }
  return count;
}

void StepLedger::Add(StepResult result) {
  step_ = result.step;
  chain_.Add(result.step, result.batch_id);
  results_.push_back(std::move(result));
  if (results_.size() > kRemembered) results_.pop_front();
}

absl::StatusOr<StepLedger> StepLedger::Restore(int64_t step, std::deque<StepResult> results,
                                               std::optional<rl::BatchChain> chain) {
  const int64_t first = step + 1 - static_cast<int64_t>(results.size());
  for (size_t i = 0; i < results.size(); ++i) {
    if (results[i].step != first + static_cast<int64_t>(i)) {
      return absl::DataLossError(
          absl::StrFormat("results[%d].step=%d of a ledger at step %d", i, results[i].step, step));
    }
  }
  if (chain && (chain->first < 1 || chain->first > first)) {
    return absl::DataLossError(absl::StrFormat(
        "chain.first=%d of a ledger whose results begin at step %d", chain->first, first));
  }
  StepLedger ledger;
  ledger.step_ = step;
  if (chain) {
    ledger.chain_ = *chain;
  } else {
    ledger.chain_.first = first;
    for (const StepResult& result : results) ledger.chain_.Add(result.step, result.batch_id);
  }
  ledger.results_ = std::move(results);
  return ledger;
}

}  // namespace palimpsest::trainer
