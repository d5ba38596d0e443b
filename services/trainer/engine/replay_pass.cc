#include "services/trainer/engine/replay_pass.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <torch/csrc/autograd/autograd.h>

#include <map>
#include <memory>
#include <numeric>

#include "absl/time/time.h"
#include "common/model/logprob.h"

namespace palimpsest::trainer {
namespace {

// Loss tokens of one temperature.
struct Slice {
  std::vector<int64_t> rows, targets;
  std::vector<TokenOutcome> tokens;
  std::vector<int64_t> ends;  // of its sequences, in tokens
};

std::map<double, Slice> SliceByTemperature(const attention::PackedBatch& batch,
                                           std::span<const LossSequence* const> sequences) {
  std::map<double, Slice> slices;
  for (size_t i = 0; i < sequences.size(); ++i) {
    const LossSequence& sequence = *sequences[i];
    Slice& slice = slices[sequence.temperature];
    for (const LossToken& token : sequence.tokens) {
      slice.rows.push_back(batch.RowOf(static_cast<int>(i), token.position - 1));
      slice.targets.push_back(sequence.replay.tokens[token.position]);
      slice.tokens.push_back({&sequence, &token});
    }
    slice.ends.push_back(static_cast<int64_t>(slice.tokens.size()));
  }
  return slices;
}

// A micro-batch after its forward pass: what PassTokens says, with autograd behind it.
struct Forward {
  std::unique_ptr<attention::PackedBatch> batch;      // autograd looks into it,
  std::unique_ptr<attention::ReplayContext> context;  // as this does
  std::vector<TokenOutcome> tokens;
  std::vector<int64_t> sequences = {0};
  at::Tensor logprobs, entropies;
};

absl::StatusOr<Forward> RunForward(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences) {
  std::vector<attention::ReplaySequence> replays;
  for (const LossSequence* sequence : sequences) replays.push_back(sequence->replay);
  const context::Shape shape = {decoder.config().layers, decoder.config().kv_heads};
  ASSIGN_OR_RETURN(attention::PackedBatch packed, attention::PackedBatch::Create(replays, shape));
  Forward forward;
  forward.batch = std::make_unique<attention::PackedBatch>(std::move(packed));
  const attention::PackedBatch& batch = *forward.batch;
  forward.context = std::make_unique<attention::ReplayContext>(batch, options);
  const at::Tensor hidden =
      decoder.Hidden(at::tensor(batch.ids(), at::kLong), at::tensor(batch.positions(), at::kLong),
                     *forward.context);
  std::vector<at::Tensor> logprobs, entropies;
  for (const auto& [temperature, slice] : SliceByTemperature(batch, sequences)) {
    auto [chosen, entropy] = model::TokenLogProbsAndEntropy(
        decoder, hidden.index_select(0, at::tensor(slice.rows, at::kLong)),
        at::tensor(slice.targets, at::kLong), temperature);
    logprobs.push_back(chosen);
    entropies.push_back(entropy);
    const auto before = static_cast<int64_t>(forward.tokens.size());
    for (int64_t end : slice.ends) forward.sequences.push_back(before + end);
    forward.tokens.insert(forward.tokens.end(), slice.tokens.begin(), slice.tokens.end());
  }
  forward.logprobs = at::cat(logprobs);
  forward.entropies = at::cat(entropies);
  return forward;
}

std::vector<double> Wide(const at::Tensor& values) {
  const at::Tensor wide = values.detach().to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

at::Tensor Like(const at::Tensor& values, const std::vector<double>& gradient) {
  return at::tensor(gradient, at::kDouble).to(values.scalar_type());
}

void RunBackward(const Forward& forward, const LossValue& value) {
  const at::Tensor of_logprobs = Like(forward.logprobs, value.of_logprobs);
  if (value.of_entropies.empty()) {
    forward.logprobs.backward(of_logprobs);
    return;
  }
  torch::autograd::backward({forward.logprobs, forward.entropies},
                            {of_logprobs, Like(forward.entropies, value.of_entropies)});
}

}  // namespace

absl::StatusOr<PassResult> RunPass(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences,
                                   const LossFunction& loss, Clock& clock) {
  const absl::Time start = clock.Now();
  ASSIGN_OR_RETURN(const Forward forward, RunForward(decoder, options, sequences));
  const std::vector<double> logprobs = Wide(forward.logprobs), entropies = Wide(forward.entropies);
  const LossValue value = loss({forward.tokens, logprobs, entropies, forward.sequences});
  PassResult result{.loss = value.loss,
                    .entropy_sum = std::accumulate(entropies.begin(), entropies.end(), 0.0),
                    .rows = forward.batch->rows()};
  result.forward_seconds = absl::ToDoubleSeconds(clock.Now() - start);

  const absl::Time turn = clock.Now();
  RunBackward(forward, value);
  result.backward_seconds = absl::ToDoubleSeconds(clock.Now() - turn);
  return result;
}

absl::StatusOr<std::vector<double>> ReplayLogProbs(const model::Decoder& decoder,
                                                   const attention::ReplayOptions& options,
                                                   std::span<const LossSequence* const> sequences) {
  const c10::NoGradGuard no_grad;
  ASSIGN_OR_RETURN(const Forward forward, RunForward(decoder, options, sequences));
  return Wide(forward.logprobs);
}

}  // namespace palimpsest::trainer
