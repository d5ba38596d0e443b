#include "services/inference/engine/score.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>

#include "absl/strings/str_format.h"
#include "common/attention/replay.h"
#include "common/context/log.h"
#include "common/model/logprob.h"
#include "services/inference/core/sampler.h"

namespace palimpsest::inference {

absl::Status CheckScore(const ScoreRequest& r, int32_t vocab, int32_t max_position) {
  if (r.tokens.size() < 2)
    return absl::InvalidArgumentError(
        absl::StrFormat("ids has %d tokens, at least 2 are scored", r.tokens.size()));
  if (static_cast<int64_t>(r.tokens.size()) > max_position) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "ids has %d tokens, the model's max_position is %d", r.tokens.size(), max_position));
  }
  for (size_t i = 0; i < r.tokens.size(); ++i) {
    if (r.tokens[i] < 0 || r.tokens[i] >= vocab) {
      return absl::InvalidArgumentError(
          absl::StrFormat("ids[%d]=%d is not in [0, %d)", i, r.tokens[i], vocab));
    }
  }
  if (r.temperature == 0) return absl::InvalidArgumentError("temperature=0 is not > 0");
  RETURN_IF_ERROR(rl::Validate({.temperature = r.temperature}));
  if (r.top && (*r.top < 0 || *r.top > rl::kMaxAlternatives)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("top_logprobs=%d is not in [0, %d]", *r.top, rl::kMaxAlternatives));
  }
  if (r.as_decoded && !r.events.empty())
    return absl::InvalidArgumentError("as_decoded: events are replayed, none can be scored so");
  return absl::OkStatus();
}

namespace {

constexpr int64_t kTopRows = 64;  // whose logits stand in memory at once

// hidden [T - 1, D]: row i speaks of token i + 1.
std::vector<Alternatives> TopOf(const model::Decoder& decoder, const at::Tensor& hidden,
                                const ScoreRequest& request) {
  std::vector<Alternatives> top;
  for (int64_t begin = 0; begin < hidden.size(0); begin += kTopRows) {
    const int64_t rows = std::min(kTopRows, hidden.size(0) - begin);
    const at::Tensor logits =
        decoder.Logits(hidden.narrow(0, begin, rows)).to(at::kFloat).contiguous();
    const auto vocab = static_cast<size_t>(logits.size(1));
    for (int64_t i = 0; i < rows; ++i) {
      const float* row = logits.const_data_ptr<float>() + static_cast<size_t>(i) * vocab;
      top.push_back(
          WeighToken({row, vocab}, request.tokens[begin + i + 1], request.temperature, *request.top)
              .top);
    }
  }
  return top;
}

}  // namespace

absl::StatusOr<ScoreResult> ScoreTokens(const model::Decoder& decoder, PolicyVersion version,
                                        const ScoreRequest& request) {
  const model::ModelConfig& config = decoder.config();
  RETURN_IF_ERROR(CheckScore(request, config.vocab, config.max_position));
  const context::Shape shape{.layers = config.layers, .kv_heads = config.kv_heads};
  ScoreResult result{.logprobs = {}, .top = {}, .events = request.events, .version = version};
  if (!result.events.empty()) {
    RETURN_IF_ERROR(context::CheckLog(shape, request.tokens, result.events));
    RETURN_IF_ERROR(context::CompleteDigests(request.tokens, result.events));
  }
  attention::ReplaySequence sequence{.tokens = request.tokens,
                                     .prompt_tokens = 0,
                                     .rows = static_cast<int32_t>(request.tokens.size()) - 1};
  for (const context::Event& e : result.events) sequence.events.push_back({.event = e});
  ASSIGN_OR_RETURN(const attention::PackedBatch batch,
                   attention::PackedBatch::Create({&sequence, 1}, shape));
  c10::NoGradGuard no_grad;
  attention::ReplayContext replay(batch,
                                  {.gradient = compaction::GradientMode::kDetached,
                                   .scale = 1 / std::sqrt(static_cast<double>(config.head_dim))});
  const at::Tensor hidden = decoder.Hidden(at::tensor(batch.ids(), at::kLong),
                                           at::tensor(batch.positions(), at::kLong), replay);
  const std::vector<int64_t> targets(request.tokens.begin() + 1, request.tokens.end());
  const at::Tensor logprobs =
      model::TokenLogProbs(decoder, hidden, at::tensor(targets, at::kLong), request.temperature)
          .to(at::kFloat)
          .contiguous();
  result.logprobs.assign(logprobs.data_ptr<float>(), logprobs.data_ptr<float>() + logprobs.numel());
  for (size_t i = 0; i < result.logprobs.size(); ++i) {
    if (std::isfinite(result.logprobs[i])) continue;
    return absl::InternalError(absl::StrFormat(
        "logprobs[%d]: the logits of policy version %d are not finite", i, version.value()));
  }
  if (request.top) result.top = TopOf(decoder, hidden, request);
  return result;
}

}  // namespace palimpsest::inference
