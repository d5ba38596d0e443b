#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <utility>

#include "absl/time/time.h"
#include "services/trainer/engine/prompt_pass_torch.h"

namespace palimpsest::trainer {

absl::StatusOr<std::unique_ptr<PromptPass>> PromptPass::Run(const model::Decoder& decoder,
                                                            const attention::ReplayOptions& options,
                                                            const LossSequence& sequence) {
  const int32_t prompt = sequence.replay.prompt_tokens;
  const attention::ReplaySequence alone{
      .tokens = sequence.replay.tokens, .prompt_tokens = prompt, .rows = prompt};
  ASSIGN_OR_RETURN(attention::PackedBatch batch,
                   attention::PackedBatch::Create(
                       {&alone, 1}, {decoder.config().layers, decoder.config().kv_heads}));
  std::unique_ptr<PromptPass> pass(new PromptPass(std::move(batch)));
  pass->held_.tokens = alone.tokens.first(static_cast<size_t>(prompt));
  pass->context_ = std::make_unique<attention::HoldingContext>(pass->batch_, options, pass->held_);
  pass->hidden_ = decoder.Hidden(at::tensor(pass->batch_.ids(), at::kLong),
                                 at::tensor(pass->batch_.positions(), at::kLong), *pass->context_);
  pass->lent_hidden_ =
      c10::make_intrusive<attention::Lent>(std::vector<at::Tensor>{pass->hidden_.detach()});
  return pass;
}

void PromptPass::Backward() {
  const at::Tensor& sum = lent_hidden_->sums.front();
  const at::Tensor gradient =
      sum.defined() ? sum.to(hidden_.scalar_type()) : at::zeros_like(hidden_);
  torch::autograd::backward({std::exchange(hidden_, {})}, {gradient});
}

absl::Status LearnBehindPrompt(
    const model::Decoder& decoder, const attention::ReplayOptions& options,
    const LossSequence& sequence, Clock& clock, PassSums& sums,
    const std::function<absl::Status(const PromptPass& prompt)>& responses) {
  const absl::Time start = clock.Now();
  ASSIGN_OR_RETURN(const std::unique_ptr<PromptPass> prompt,
                   PromptPass::Run(decoder, options, sequence));
  sums.rows += prompt->rows();
  sums.forward_seconds += absl::ToDoubleSeconds(clock.Now() - start);
  RETURN_IF_ERROR(responses(*prompt));
  const absl::Time turn = clock.Now();
  prompt->Backward();
  sums.backward_seconds += absl::ToDoubleSeconds(clock.Now() - turn);
  return absl::OkStatus();
}

}  // namespace palimpsest::trainer
