#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/attention/replay.h"
#include "common/base/clock.h"
#include "common/model/decoder.h"

namespace palimpsest::trainer {

// A token that is learnt, with what its loss needs.
struct LossToken {
  int32_t position = 0;  // >= 1: predicted by the row before it
  double recorded = 0;   // log-probability when it was sampled, nats; 0 for SFT
  double advantage = 0;
  double weight = 0;  // of the whole batch
};

// One item of a batch, ready to be replayed. Views the tokens of the batch.
struct LossSequence {
  attention::ReplaySequence replay;
  double temperature = 1;
  std::vector<LossToken> tokens;  // not empty
  int32_t item = 0;               // its place among the items of the batch
};

// Of one token that was learnt.
struct TokenOutcome {
  const LossSequence* sequence = nullptr;
  const LossToken* token = nullptr;
};

// The loss tokens of a micro-batch after its forward pass, T of them, sequence after sequence;
// which comes first depends on the sequences alone.
struct PassTokens {
  std::span<const TokenOutcome> tokens;  // [T]
  std::span<const double> logprobs;      // [T] nats
  std::span<const double> entropies;     // [T] of each token's distribution, nats
  std::span<const int64_t> sequences;    // [S + 1] offsets, rising from 0 to T
};

// Value of the loss and its derivatives.
struct LossValue {
  double loss = 0;
  std::vector<double> of_logprobs = {};   // [T]
  std::vector<double> of_entropies = {};  // [T]; empty when the entropy has no part in it
};
using LossFunction = std::function<LossValue(const PassTokens&)>;

struct PassResult {
  double loss = 0;
  double entropy_sum = 0;  // nats over the loss tokens
  int64_t rows = 0;
  double forward_seconds = 0;
  double backward_seconds = 0;
};

// One micro-batch: replayed, its loss taken, its gradients added to those of the parameters.
// INVALID_ARGUMENT for a log that does not fit. May throw what torch throws.
absl::StatusOr<PassResult> RunPass(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences,
                                   const LossFunction& loss, Clock& clock);

// [T] log-probabilities of the loss tokens under other weights and the same logs, in the order of
// PassTokens; nothing is learnt.
absl::StatusOr<std::vector<double>> ReplayLogProbs(const model::Decoder& decoder,
                                                   const attention::ReplayOptions& options,
                                                   std::span<const LossSequence* const> sequences);

}  // namespace palimpsest::trainer
