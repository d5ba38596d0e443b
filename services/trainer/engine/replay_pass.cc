#include "services/trainer/engine/replay_pass.h"

#include <ATen/ATen.h>

#include <map>

#include "absl/time/time.h"
#include "common/model/logprob.h"

namespace palimpsest::trainer {
namespace {

// Loss tokens of one temperature.
struct Slice {
  std::vector<int64_t> rows, targets;
  std::vector<TokenOutcome> tokens;
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
  }
  return slices;
}

}  // namespace

absl::StatusOr<PassResult> RunPass(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences,
                                   const LossFunction& loss, Clock& clock) {
  const absl::Time start = clock.Now();
  std::vector<attention::ReplaySequence> replays;
  for (const LossSequence* sequence : sequences) replays.push_back(sequence->replay);
  const context::Shape shape = {decoder.config().layers, decoder.config().kv_heads};
  ASSIGN_OR_RETURN(const attention::PackedBatch batch,
                   attention::PackedBatch::Create(replays, shape));
  attention::ReplayContext context(batch, options);
  const at::Tensor hidden = decoder.Hidden(at::tensor(batch.ids(), at::kLong),
                                           at::tensor(batch.positions(), at::kLong), context);

  std::vector<at::Tensor> parts;
  std::vector<TokenOutcome> tokens;
  PassResult result{.rows = batch.rows()};
  for (const auto& [temperature, slice] : SliceByTemperature(batch, sequences)) {
    const auto [logprobs, entropy] = model::TokenLogProbsAndEntropy(
        decoder, hidden.index_select(0, at::tensor(slice.rows, at::kLong)),
        at::tensor(slice.targets, at::kLong), temperature);
    parts.push_back(logprobs);
    tokens.insert(tokens.end(), slice.tokens.begin(), slice.tokens.end());
    result.entropy_sum += entropy.detach().sum(at::kDouble).item<double>();
  }
  const at::Tensor logprobs = at::cat(parts);
  const at::Tensor wide = logprobs.detach().to(at::kDouble).contiguous();
  const LossValue value =
      loss(tokens, {wide.const_data_ptr<double>(), static_cast<size_t>(wide.numel())});
  result.loss = value.loss;
  result.forward_seconds = absl::ToDoubleSeconds(clock.Now() - start);

  const absl::Time turn = clock.Now();
  logprobs.backward(at::tensor(value.gradient, at::kDouble).to(logprobs.scalar_type()));
  result.backward_seconds = absl::ToDoubleSeconds(clock.Now() - turn);
  return result;
}

}  // namespace palimpsest::trainer
