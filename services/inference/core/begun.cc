#include "services/inference/core/begun.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/context/log.h"

namespace palimpsest::inference {
namespace {

constexpr float kMostLogProb = 1e-3f;  // above 0 by roundings alone
constexpr int32_t kMostEpochs = 1 << 20;
constexpr double kMostSeconds = 1e9;

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
  if (begun.seed != r.sampling.seed)
    return Refused(i, "seed=%d, the request's is %d", begun.seed, r.sampling.seed);
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

absl::Status CheckTokens(const GenerationRequest& r, const ModelInfo& model, size_t i) {
  const rl::Rollout& begun = r.begun[i];
  if (begun.prompt_tokens != std::ssize(r.prompt) ||
      !std::equal(r.prompt.begin(), r.prompt.end(), begun.tokens.begin()))
    return Refused(i, "prompt_tokens=%d are not the request's prompt of %d", begun.prompt_tokens,
                   r.prompt.size());
  for (size_t t = 0; t < begun.tokens.size(); ++t) {
    if (begun.tokens[t] >= 0 && begun.tokens[t] < model.vocab) continue;
    return Refused(i, "tokens[%d]=%d is not in [0, %d)", t, begun.tokens[t], model.vocab);
  }
  if (std::ssize(begun.tokens) >= model.max_position)
    return Refused(i, "tokens: %d of them, the model's max_position is %d", begun.tokens.size(),
                   model.max_position);
  const auto sampled = std::count(begun.origins.begin(), begun.origins.end(), rl::Origin::kSampled);
  if (r.sampling.max_tokens && sampled >= *r.sampling.max_tokens)
    return Refused(i, "tokens: %d are sampled, max_tokens is %d", sampled, *r.sampling.max_tokens);
  return absl::OkStatus();
}

absl::Status CheckNumbers(const GenerationRequest& r, size_t i) {
  const rl::Rollout& begun = r.begun[i];
  for (size_t t = 0; t < begun.logprobs.size(); ++t) {
    if (begun.logprobs[t] <= kMostLogProb) continue;
    return Refused(i, "logprobs[%d]=%g is above 0", t, begun.logprobs[t]);
  }
  for (const rl::Span& span : begun.spans) {
    if (span.kv_epoch >= kMostEpochs)
      return Refused(i, "spans: kv_epoch=%d is not below %d", span.kv_epoch, kMostEpochs);
  }
  if (begun.seconds > kMostSeconds)
    return Refused(i, "duration_seconds=%g is above %g", begun.seconds, kMostSeconds);
  return absl::OkStatus();
}

// What the request's policy decides; with `pressure`, where an event came early.
std::optional<context::EventDraft> DraftOf(const GenerationRequest& r,
                                           const context::ContextState& state, int32_t prompt,
                                           bool pressure) {
  const context::Decision decision =
      context::Decide(r.context, {.state = state, .prompt_tokens = prompt, .pressure = pressure});
  const auto* draft = std::get_if<context::EventDraft>(&decision);
  return draft == nullptr ? std::nullopt : std::optional(*draft);
}

// Replay reads what the policy has had recorded, in the memory that admission has counted: so the
// event has its range of references and keeps no more.
bool IsOf(const context::EventDraft& draft, const context::Event& event,
          const context::ContextState& state) {
  if (event.window != draft.window || event.method != draft.method ||
      !(event.parameters == draft.parameters) || !(event.reference == draft.reference))
    return false;
  for (int layer = 0; layer < state.shape().layers; ++layer) {
    for (int head = 0; head < state.shape().kv_heads; ++head) {
      const int32_t slots = state.CountSlots(layer, head, draft.window);
      if (std::ssize(event.kept.at(layer, head)) >
          context::KeptCount(draft.method, draft.keep_ratio, slots))
        return false;
    }
  }
  return true;
}

// The log is one that the request's policy could have written: whatever it decides has happened,
// and nothing else, save events that came early.
absl::Status CheckPolicy(const GenerationRequest& r, const ModelInfo& model, size_t i) {
  const rl::Rollout& begun = r.begun[i];
  context::ContextState state({.layers = model.layers, .kv_heads = model.kv_heads});
  const auto last = static_cast<int32_t>(begun.tokens.size()) - 1;
  for (size_t next = 0; state.processed() <= last; state.Append()) {
    const int32_t at = state.processed();
    const bool happened = next < begun.events.size() && begun.events[next].at == at;
    auto draft = DraftOf(r, state, begun.prompt_tokens, false);
    // Before the last token it may be still to come.
    if (draft && !happened && at < last)
      return Refused(i, "events: the request's context makes one at %d, the log does not", at);
    if (!happened) continue;
    if (!draft) draft = DraftOf(r, state, begun.prompt_tokens, true);
    if (!draft)
      return Refused(i, "events[%d].at=%d: the request's context makes none there", next, at);
    if (!IsOf(*draft, begun.events[next], state))
      return Refused(i, "events[%d] is not what the request's context makes at %d", next, at);
    RETURN_IF_ERROR(state.Apply(begun.events[next]));
    ++next;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBegun(const GenerationRequest& r, const ModelInfo& model) {
  if (!r.begun.empty() && r.sampling.prompt_logprobs)
    return absl::InvalidArgumentError("prompt_logprobs: not of samples that have begun");
  for (size_t i = 0; i < r.begun.size(); ++i) {
    RETURN_IF_ERROR(CheckNumber(r, i));
    RETURN_IF_ERROR(CheckDraws(r, i));
    RETURN_IF_ERROR(CheckTokens(r, model, i));
    const absl::Status log = context::CheckLog({.layers = model.layers, .kv_heads = model.kv_heads},
                                               r.begun[i].tokens, r.begun[i].events);
    if (!log.ok()) return Refused(i, "%s", std::string(log.message()));
    RETURN_IF_ERROR(CheckNumbers(r, i));
    RETURN_IF_ERROR(CheckPolicy(r, model, i));
  }
  return absl::OkStatus();
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
