#include <ATen/ATen.h>

#include <algorithm>
#include <map>

#include "common/model/logprob.h"
#include "services/trainer/engine/forward_torch.h"
#include "services/trainer/engine/prompt_pass_torch.h"

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

}  // namespace

absl::StatusOr<Forward> RunForward(const model::Decoder& decoder,
                                   const attention::ReplayOptions& options,
                                   std::span<const LossSequence* const> sequences, rl::View view,
                                   const PromptPass* prompt) {
  std::vector<attention::ReplaySequence> replays;
  for (const LossSequence* sequence : sequences) {
    replays.push_back(sequence->replay);
    if (view == rl::View::kDense) replays.back().events.clear();
  }
  const context::Shape shape = {decoder.config().layers, decoder.config().kv_heads};
  ASSIGN_OR_RETURN(attention::PackedBatch packed,
                   prompt == nullptr ? attention::PackedBatch::Create(replays, shape)
                                     : attention::PackedBatch::CreateBehind(prompt->held().tokens,
                                                                            replays, shape));
  Forward forward;
  forward.batch = std::make_unique<attention::PackedBatch>(std::move(packed));
  const attention::PackedBatch& batch = *forward.batch;
  forward.context = std::make_unique<attention::ReplayContext>(
      batch, options, prompt == nullptr ? nullptr : &prompt->held());
  at::Tensor hidden = decoder.Hidden(at::tensor(batch.ids(), at::kLong),
                                     at::tensor(batch.positions(), at::kLong), *forward.context);
  if (prompt != nullptr) {
    const std::vector<at::Tensor> of_prompt = attention::Borrow(prompt->hidden(), hidden);
    hidden = at::cat({hidden, of_prompt.front()});
  }
  for (const auto& [temperature, slice] : SliceByTemperature(batch, sequences)) {
    forward.rows.push_back({temperature, hidden.index_select(0, at::tensor(slice.rows, at::kLong)),
                            at::tensor(slice.targets, at::kLong)});
    const auto before = static_cast<int64_t>(forward.tokens.size());
    for (int64_t end : slice.ends) forward.sequences.push_back(before + end);
    forward.tokens.insert(forward.tokens.end(), slice.tokens.begin(), slice.tokens.end());
  }
  return forward;
}

std::pair<at::Tensor, at::Tensor> Score(const model::Decoder& decoder,
                                        std::span<const PredictingRows> rows) {
  std::vector<at::Tensor> logprobs, entropies;
  // Each part keeps a chunk of logits until the backward pass: together not more than one would.
  const int64_t chunk_rows = std::max<int64_t>(
      1, model::kLogProbChunkRows / std::max<int64_t>(1, static_cast<int64_t>(rows.size())));
  for (const PredictingRows& part : rows) {
    auto [chosen, entropy] = model::TokenLogProbsAndEntropy(decoder, part.hidden, part.targets,
                                                            part.temperature, chunk_rows);
    logprobs.push_back(chosen);
    entropies.push_back(entropy);
  }
  return {at::cat(logprobs), at::cat(entropies)};
}

std::vector<double> Wide(const at::Tensor& values) {
  const at::Tensor wide = values.detach().to(at::kDouble).contiguous();
  return {wide.const_data_ptr<double>(), wide.const_data_ptr<double>() + wide.numel()};
}

at::Tensor Like(const at::Tensor& values, std::span<const double> gradient) {
  return at::tensor(at::ArrayRef<double>(gradient.data(), gradient.size()), at::kDouble)
      .to(values.scalar_type());
}

}  // namespace palimpsest::trainer
