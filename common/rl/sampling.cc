#include "common/rl/sampling.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

template <class... Args>
absl::Status Refused(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::InvalidArgumentError(absl::StrFormat(format, args...));
}

// Comparisons are written so that NaN is refused.
absl::Status CheckDistribution(const SamplingParams& p) {
  // Colder than that, logits / temperature leave what fp32 tells apart.
  constexpr double kColdest = 1e-3, kHottest = 1e6;
  if (p.temperature != 0 && !(p.temperature >= kColdest && p.temperature <= kHottest)) {
    return Refused("temperature=%g is neither 0 (greedy) nor in [%g, %g]", p.temperature, kColdest,
                   kHottest);
  }
  if (p.top_k < 0) return Refused("top_k=%d is not >= 0", p.top_k);
  if (!(p.top_p > 0 && p.top_p <= 1)) return Refused("top_p=%g is not in (0, 1]", p.top_p);
  if (!(p.min_p >= 0 && p.min_p < 1)) return Refused("min_p=%g is not in [0, 1)", p.min_p);
  // Beyond that fp32 does not tell logits apart either.
  if (!(p.repetition_penalty >= 0.01 && p.repetition_penalty <= 100)) {
    return Refused("repetition_penalty=%g is not in [0.01, 100]", p.repetition_penalty);
  }
  if (!(p.presence_penalty >= -2 && p.presence_penalty <= 2)) {
    return Refused("presence_penalty=%g is not in [-2, 2]", p.presence_penalty);
  }
  if (!(p.frequency_penalty >= -2 && p.frequency_penalty <= 2)) {
    return Refused("frequency_penalty=%g is not in [-2, 2]", p.frequency_penalty);
  }
  for (const auto& [id, bias] : p.logit_bias) {
    if (id < 0 || !(bias >= -100 && bias <= 100)) {
      return Refused("logit_bias[%d]=%g is not an id >= 0 with a bias in [-100, 100]", id, bias);
    }
  }
  return absl::OkStatus();
}

absl::Status CheckEnd(const SamplingParams& p) {
  for (size_t i = 0; i < p.stop_ids.size(); ++i) {
    if (p.stop_ids[i] < 0) return Refused("stop_ids[%d]=%d is not >= 0", i, p.stop_ids[i]);
  }
  if (p.stop_strings.size() > kMaxStopStrings) {
    return Refused("stop_strings: %d of them, at most %d", p.stop_strings.size(), kMaxStopStrings);
  }
  for (size_t i = 0; i < p.stop_strings.size(); ++i) {
    const size_t size = p.stop_strings[i].size();
    if (size == 0 || size > kMaxStopStringBytes) {
      return Refused("stop_strings[%d] has %d bytes, not 1 to %d", i, size, kMaxStopStringBytes);
    }
  }
  if (p.max_tokens && *p.max_tokens <= 0) return Refused("max_tokens=%d is not > 0", *p.max_tokens);
  if (p.min_tokens < 0) return Refused("min_tokens=%d is not >= 0", p.min_tokens);
  if (p.max_tokens && p.min_tokens > *p.max_tokens) {
    return Refused("min_tokens=%d is more than max_tokens=%d", p.min_tokens, *p.max_tokens);
  }
  return absl::OkStatus();
}

absl::Status CheckAlternatives(const char* field, std::optional<int32_t> count) {
  if (!count || (*count >= 0 && *count <= kMaxAlternatives)) return absl::OkStatus();
  return Refused("%s=%d is not in [0, %d]", field, *count, kMaxAlternatives);
}

}  // namespace

absl::Status Validate(const SamplingParams& params) {
  RETURN_IF_ERROR(CheckDistribution(params));
  RETURN_IF_ERROR(CheckEnd(params));
  RETURN_IF_ERROR(CheckAlternatives("top_logprobs", params.top_logprobs));
  return CheckAlternatives("prompt_logprobs", params.prompt_logprobs);
}

bool ChangesDistribution(const SamplingParams& p) {
  const bool biased =
      std::any_of(p.logit_bias.begin(), p.logit_bias.end(), [](auto& b) { return b.second != 0; });
  const bool penalised =
      p.repetition_penalty != 1 || p.presence_penalty != 0 || p.frequency_penalty != 0;
  const bool cut = p.temperature > 0 && (p.top_k != 0 || p.top_p != 1 || p.min_p != 0);
  return biased || penalised || cut;
}

absl::Status Validate(const BudgetMessages& m) {
  if (m.text.empty()) return Refused("text is empty");
  if (m.text.size() > kMaxMessageBytes)
    return Refused("text has %d bytes, at most %d", m.text.size(), kMaxMessageBytes);
  if (m.every < 0) return Refused("every=%d is not >= 0", m.every);
  if (m.total < 0) return Refused("total=%d is not >= 0", m.total);
  if (!m.at_events && m.every == 0) return Refused("every=0 and not at_events: never injected");
  return absl::OkStatus();
}

}  // namespace palimpsest::rl
