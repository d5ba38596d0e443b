#pragma once

#include <ATen/core/Tensor.h>

#include <memory>
#include <span>
#include <utility>
#include <vector>

#include "common/rl/views.h"
#include "services/trainer/engine/replay_pass.h"

namespace palimpsest::trainer {

// The rows that predict the loss tokens of one temperature, n of them.
struct PredictingRows {
  double temperature = 1;
  at::Tensor hidden;   // [n, D]
  at::Tensor targets;  // [n] int64
};

// A micro-batch after its forward pass under one view, with autograd behind its rows. Which token
// comes first depends on the sequences alone, so those of two views stand side by side.
struct Forward {
  std::unique_ptr<attention::PackedBatch> batch;      // autograd looks into it,
  std::unique_ptr<attention::ReplayContext> context;  // as this does
  std::vector<TokenOutcome> tokens;                   // [T]
  std::vector<int64_t> sequences = {0};               // [S + 1] offsets
  std::vector<PredictingRows> rows;                   // T together, in the order of the tokens
};

// The shadow replays the logs, the dense view leaves their events out. With `prompt`, which
// outlives the pass and its backward pass, responses to it go on from there. INVALID_ARGUMENT for a
// log that does not fit.
absl::StatusOr<Forward> RunForward(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences, rl::View view,
                                   const PromptPass* prompt = nullptr);

// Log-probabilities and entropies [T] of the loss tokens, nats.
std::pair<at::Tensor, at::Tensor> Score(const model::Decoder& decoder,
                                        std::span<const PredictingRows> rows);

// Values of [T] as doubles, and derivatives by them as a tensor of their type.
std::vector<double> Wide(const at::Tensor& values);
at::Tensor Like(const at::Tensor& values, std::span<const double> gradient);

}  // namespace palimpsest::trainer
