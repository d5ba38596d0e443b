#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/attention/replay.h"
#include "common/base/clock.h"
#include "common/model/decoder.h"
#include "common/rl/views.h"

namespace palimpsest::trainer {

class PromptPass;

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

// Which views of its sequences a pass looks at.
struct PassViews {
  rl::View learner = rl::View::kShadow;  // what the loss function is asked about
  rl::Distillation distillation = rl::Distillation::kNone;
  double coefficient = 0;  // of the distillation
  bool compare = false;    // notes how far the views are apart; always where one is distilled
};

// Of a micro-batch, or of several.
struct PassSums {
  double loss = 0;         // with what the distillation adds,
  double distilled = 0;    // which is this
  double entropy_sum = 0;  // nats over the loss tokens, by the learner's view
  int64_t rows = 0;        // of both views
  double forward_seconds = 0;
  double backward_seconds = 0;
  double other_view_seconds = 0;  // of the passes of the view that is not the learner's
  void Add(const PassSums& other);
};

struct PassResult {
  PassSums sums;
  std::vector<rl::ViewGap> gaps = {};  // [T] where views are compared
};

// The passes over the layers that RunPass makes, in their order: is a backward pass behind it?
std::vector<bool> BackwardOfPasses(const PassViews& views);

// One micro-batch: replayed, its loss taken, its gradients added to those of the parameters. With
// `prompt` responses to it go on from there in all views, and what is owed to its rows is left with
// it (prompt_pass_torch.h). INVALID_ARGUMENT for a log that does not fit. May throw what torch
// throws.
absl::StatusOr<PassResult> RunPass(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences,
                                   const LossFunction& loss, Clock& clock,
                                   const PassViews& views = {}, const PromptPass* prompt = nullptr);

// [T] log-probabilities of the loss tokens under other weights and the same view, in the order of
// PassTokens; nothing is learnt.
absl::StatusOr<std::vector<double>> ReplayLogProbs(const model::Decoder& decoder,
                                                   const attention::ReplayOptions& options,
                                                   std::span<const LossSequence* const> sequences,
                                                   rl::View view = rl::View::kShadow,
                                                   const PromptPass* prompt = nullptr);

}  // namespace palimpsest::trainer
