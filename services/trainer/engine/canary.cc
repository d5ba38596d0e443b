#include "services/trainer/engine/canary.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <numeric>

#include "common/base/random.h"
#include "common/model/causal.h"
#include "common/model/logprob.h"
#include "common/weights/canary.h"
#include "common/weights/durable_file.h"

namespace palimpsest::trainer {
namespace {

constexpr uint64_t kPrompts = 4;
constexpr int32_t kTokens = 32;  // of each, where the model has as many positions

weights::CanaryPrompt ScorePrompt(const model::Decoder& decoder, uint64_t number) {
  const model::ModelConfig& config = decoder.config();
  RandomStream random(MixSeed({Meaning("canary"), number}));
  weights::CanaryPrompt prompt;
  for (int32_t i = 0; i < std::min<int32_t>(kTokens, config.max_position); ++i)
    prompt.ids.push_back(static_cast<int32_t>(random.Below(config.vocab)));
  const std::vector<int64_t> ids(prompt.ids.begin(), prompt.ids.end());
  const int64_t rows = std::ssize(ids) - 1;
  std::vector<int64_t> positions(rows);
  std::iota(positions.begin(), positions.end(), 0);
  const std::vector<int64_t> seen(ids.begin(), ids.end() - 1), targets(ids.begin() + 1, ids.end());
  model::CausalContext attention({rows});
  const at::Tensor hidden =
      decoder.Hidden(at::tensor(seen, at::kLong), at::tensor(positions, at::kLong), attention);
  const at::Tensor logprobs =
      model::TokenLogProbs(decoder, hidden, at::tensor(targets, at::kLong), 1)
          .to(at::kFloat)
          .contiguous();
  prompt.logprobs.assign(logprobs.const_data_ptr<float>(),
                         logprobs.const_data_ptr<float>() + logprobs.numel());
  return prompt;
}

}  // namespace

absl::Status SaveVersion(const SourceModel& model, const std::string& folder) {
  RETURN_IF_ERROR(SaveModel(model, folder));
  const c10::NoGradGuard no_grad;
  std::vector<weights::CanaryPrompt> prompts;
  for (uint64_t i = 0; i < kPrompts; ++i) prompts.push_back(ScorePrompt(*model.decoder, i));
  return weights::WriteFileDurably(folder + "/" + weights::kCanaryName, weights::ToJson(prompts));
}

}  // namespace palimpsest::trainer
