#include "services/inference/core/begun.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "services/inference/core/begun_log.h"

namespace palimpsest::inference {
namespace {

template <class... Args>
absl::Status Refused(size_t i, const absl::FormatSpec<Args...>& why, const Args&... args) {
  return absl::InvalidArgumentError(
      absl::StrFormat("begun[%d].%s", i, absl::StrFormat(why, args...)));
}

absl::Status CheckNumber(const GenerationRequest& r, size_t i) {
  const int32_t sample = r.begun[i].sample;
  if (sample < r.first_sample || sample - r.first_sample >= r.n)
    return Refused(i, "sample=%d is not in [%d, %d)", sample, r.first_sample, r.first_sample + r.n);
  if (i > 0 && sample <= r.begun[i - 1].sample)
    return Refused(i, "sample=%d does not rise above %d", sample, r.begun[i - 1].sample);
  return absl::OkStatus();
}

absl::Status CheckDraws(const GenerationRequest& r, size_t i) {
  const rl::Rollout& begun = r.begun[i];
  const bool greedy = r.sampling.temperature <= 0;
  if (begun.greedy != greedy)
    return Refused(i, "greedy=%d, the request's is %d", begun.greedy, greedy);
  if (!greedy && begun.temperature != r.sampling.temperature)
    return Refused(i, "temperature=%g, the request's is %g", begun.temperature,
                   r.sampling.temperature);
  if (begun.finish_reason == rl::FinishReason::kStop ||
      begun.finish_reason == rl::FinishReason::kLength)
    return Refused(i, "finish_reason=%d: it was not cut", static_cast<int>(begun.finish_reason));
  return absl::OkStatus();
}

absl::Status CheckRoom(const GenerationRequest& r, size_t i) {
  const auto& origins = r.begun[i].origins;
  const auto sampled = std::count(origins.begin(), origins.end(), rl::Origin::kSampled);
  if (r.sampling.max_tokens && sampled >= *r.sampling.max_tokens)
    return Refused(i, "tokens: %d are sampled, max_tokens is %d", sampled, *r.sampling.max_tokens);
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBegun(const GenerationRequest& r, const ModelInfo& model) {
  if (!r.begun.empty() && r.sampling.prompt_logprobs)
    return absl::InvalidArgumentError("prompt_logprobs: not of samples that have begun");
  for (size_t i = 0; i < r.begun.size(); ++i) {
    RETURN_IF_ERROR(CheckNumber(r, i));
    RETURN_IF_ERROR(CheckDraws(r, i));
    RETURN_IF_ERROR(CheckRoom(r, i));
    RETURN_IF_ERROR(CheckBegunLog({.name = absl::StrFormat("begun[%d]", i),
                                   .log = r.begun[i],
                                   .prompt = r.prompt,
                                   .seed = r.sampling.seed,
                                   .context = r.context},
                                  model));
  }
  return absl::OkStatus();
}

absl::Status CheckBegun(const SessionSpec& spec, const ModelInfo& model) {
  const rl::Rollout& log = *spec.begun;
  if (log.sample != 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("begun.sample=%d, a session's is 0", log.sample));
  }
  const std::vector<int32_t> turns = TurnsOf(log);
  return CheckBegunLog({.name = "begun",
                        .log = log,
                        .prompt = spec.prompt,
                        .seed = spec.seed,
                        .context = spec.context,
                        .turn_begins = turns},
                       model);
}

std::vector<int32_t> TurnsOf(const rl::Rollout& log) {
  std::vector<int32_t> begins;
  for (auto t = static_cast<size_t>(log.prompt_tokens); t < log.tokens.size(); ++t) {
    const bool first = begins.empty();
    const bool told = log.origins[t] == rl::Origin::kInjected;
    if (first || (told && log.origins[t - 1] == rl::Origin::kSampled))
      begins.push_back(static_cast<int32_t>(t));
  }
  return begins;
}

const rl::Rollout* FindBegun(const GenerationRequest& r, int32_t sample) {
  const auto found =
      std::find_if(r.begun.begin(), r.begun.end(),
                   [sample](const rl::Rollout& begun) { return begun.sample == sample; });
  return found == r.begun.end() ? nullptr : &*found;
}

std::vector<int32_t> SamplesToStart(const GenerationRequest& r) {
  std::vector<int32_t> samples;
  for (int32_t sample = r.first_sample; sample < r.first_sample + r.n; ++sample) {
    if (FindBegun(r, sample) == nullptr) samples.push_back(sample);
  }
  return samples;
}

}  // namespace palimpsest::inference
