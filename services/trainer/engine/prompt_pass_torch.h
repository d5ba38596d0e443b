#pragma once

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <utility>

#include "common/attention/held_prompt_torch.h"
#include "services/trainer/engine/replay_pass.h"

namespace palimpsest::trainer {

// The forward pass of a prompt alone, which stays until the passes of its responses are over: they
// see its rows as constants, and its backward pass begins with the gradients that they found.
class PromptPass {
 public:
  // Of the prompt of `sequence`, which has no events there; autograd as it is set. `decoder` holds
  // all its layers. `decoder` and the tokens outlive it.
  static absl::StatusOr<std::unique_ptr<PromptPass>> Run(const model::Decoder& decoder,
                                                         const attention::ReplayOptions& options,
                                                         const LossSequence& sequence);

  const attention::HeldPrompt& held() const { return held_; }
  // Its final-norm rows [P, D].
  const c10::intrusive_ptr<attention::Lent>& hidden() const { return lent_hidden_; }
  int64_t rows() const { return batch_.rows(); }

  // Once, after the backward passes of all its responses.
  void Backward();

 private:
  explicit PromptPass(attention::PackedBatch batch) : batch_(std::move(batch)) {}

  attention::PackedBatch batch_;
  attention::HeldPrompt held_;
  std::unique_ptr<attention::HoldingContext> context_;
  at::Tensor hidden_;
  c10::intrusive_ptr<attention::Lent> lent_hidden_;
};

// Learns from responses to the prompt of `sequence` in several passes, which `responses` makes; the
// prompt runs once, forward before them and backward after them. Adds its rows and seconds to
// `sums`.
absl::Status LearnBehindPrompt(
    const model::Decoder& decoder, const attention::ReplayOptions& options,
    const LossSequence& sequence, Clock& clock, PassSums& sums,
    const std::function<absl::Status(const PromptPass& prompt)>& responses);

}  // namespace palimpsest::trainer
