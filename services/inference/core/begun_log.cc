#include "services/inference/core/begun_log.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/context/log.h"

namespace palimpsest::inference {
namespace {

constexpr float kMostLogProb = 1e-3f;  // above 0 by roundings alone
constexpr int32_t kMostEpochs = 1 << 20;
constexpr double kMostSeconds = 1e9;

template <class... Args>
absl::Status Refused(const BegunLog& b, const absl::FormatSpec<Args...>& why, const Args&... args) {
  return absl::InvalidArgumentError(
      absl::StrFormat("%s.%s", b.name, absl::StrFormat(why, args...)));
}

absl::Status CheckTokens(const BegunLog& b, const ModelInfo& model) {
  const rl::Rollout& log = b.log;
  if (log.prompt_tokens != std::ssize(b.prompt) || log.tokens.size() < b.prompt.size() ||
      !std::equal(b.prompt.begin(), b.prompt.end(), log.tokens.begin()))
    return Refused(b, "prompt_tokens=%d are not the request's prompt of %d", log.prompt_tokens,
                   b.prompt.size());
  for (size_t t = 0; t < log.tokens.size(); ++t) {
    if (log.tokens[t] >= 0 && log.tokens[t] < model.vocab) continue;
    return Refused(b, "tokens[%d]=%d is not in [0, %d)", t, log.tokens[t], model.vocab);
  }
  if (std::ssize(log.tokens) >= model.max_position)
    return Refused(b, "tokens: %d of them, the model's max_position is %d", log.tokens.size(),
                   model.max_position);
  return absl::OkStatus();
}

absl::Status CheckNumbers(const BegunLog& b) {
  for (size_t t = 0; t < b.log.logprobs.size(); ++t) {
    if (b.log.logprobs[t] <= kMostLogProb) continue;
    return Refused(b, "logprobs[%d]=%g is above 0", t, b.log.logprobs[t]);
  }
  for (const rl::Span& span : b.log.spans) {
    if (span.kv_epoch >= kMostEpochs)
      return Refused(b, "spans: kv_epoch=%d is not below %d", span.kv_epoch, kMostEpochs);
  }
  if (b.log.seconds > kMostSeconds)
    return Refused(b, "duration_seconds=%g is above %g", b.log.seconds, kMostSeconds);
  return absl::OkStatus();
}

context::PolicyInput InputOf(const BegunLog& b, const context::ContextState& state) {
  return {.state = state,
          .prompt_tokens = b.log.prompt_tokens,
          .turn_begins = b.turn_begins,
          .step_begins =
              std::binary_search(b.turn_begins.begin(), b.turn_begins.end(), state.processed())};
}

// The draft that `event`, which has happened now, was made from; nullopt: the policy has none here,
// not even under pressure or when it is asked.
std::optional<context::EventDraft> DraftOf(const BegunLog& b, const context::ContextState& state,
                                           const context::Event& event) {
  context::PolicyInput input = InputOf(b, state);
  if (std::holds_alternative<context::Manual>(b.context.trigger)) {
    const auto asked = context::DraftManual(b.context, input, event.window);
    return asked.ok() ? std::optional(*asked) : std::nullopt;
  }
  for (const bool pressure : {false, true}) {
    input.pressure = pressure;
    const context::Decision decision = context::Decide(b.context, input);
    if (const auto* draft = std::get_if<context::EventDraft>(&decision)) return *draft;
  }
  return std::nullopt;
}

// Replay reads what the policy has had recorded, in the memory that admission has counted: so the
// event has its range of references and keeps no more. Where a caller may force positions,
// admission has counted all of them.
bool IsOf(const context::EventDraft& draft, const context::Event& event,
          const context::ContextState& state, bool forced) {
  if (event.window != draft.window || event.method != draft.method ||
      !(event.parameters == draft.parameters) || !(event.reference == draft.reference))
    return false;
  for (int layer = 0; layer < state.shape().layers && !forced; ++layer) {
    for (int head = 0; head < state.shape().kv_heads; ++head) {
      const int32_t slots = state.CountSlots(layer, head, draft.window);
      if (std::ssize(event.kept.at(layer, head)) >
          context::KeptCount(draft.method, draft.keep_ratio, slots))
        return false;
    }
  }
  return true;
}

// The context had no room from `at` on: nothing there was processed.
absl::Status CheckEnd(const BegunLog& b, size_t next, int32_t at) {
  if (next == b.log.events.size()) return absl::OkStatus();
  return Refused(b, "events[%d].at=%d: the request's context has no room from %d on", next,
                 b.log.events[next].at, at);
}

// Whatever the policy decides has happened, and nothing else, save events that came early.
absl::Status CheckPolicy(const BegunLog& b, const ModelInfo& model) {
  context::ContextState state({.layers = model.layers, .kv_heads = model.kv_heads});
  const bool forced = std::holds_alternative<context::Manual>(b.context.trigger);
  const auto last = static_cast<int32_t>(b.log.tokens.size()) - 1;
  for (size_t next = 0; state.processed() <= last; state.Append()) {
    const int32_t at = state.processed();
    const bool happened = next < b.log.events.size() && b.log.events[next].at == at;
    if (!happened) {
      const context::Decision decision = context::Decide(b.context, InputOf(b, state));
      if (std::holds_alternative<context::OutOfRoom>(decision)) return CheckEnd(b, next, at);
      // Before the last token it may be still to come.
      if (std::holds_alternative<context::EventDraft>(decision) && at < last)
        return Refused(b, "events: the request's context makes one at %d, the log does not", at);
      continue;
    }
    const context::Event& event = b.log.events[next];
    const auto draft = DraftOf(b, state, event);
    if (!draft)
      return Refused(b, "events[%d].at=%d: the request's context makes none there", next, at);
    if (!IsOf(*draft, event, state, forced))
      return Refused(b, "events[%d] is not what the request's context makes at %d", next, at);
    RETURN_IF_ERROR(state.Apply(event));
    ++next;
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckBegunLog(const BegunLog& b, const ModelInfo& model) {
  if (b.log.seed != b.seed) return Refused(b, "seed=%d, the request's is %d", b.log.seed, b.seed);
  RETURN_IF_ERROR(CheckTokens(b, model));
  const absl::Status log = context::CheckLog({.layers = model.layers, .kv_heads = model.kv_heads},
                                             b.log.tokens, b.log.events);
  if (!log.ok()) return Refused(b, "%s", std::string(log.message()));
  RETURN_IF_ERROR(CheckNumbers(b));
  return CheckPolicy(b, model);
}

}  // namespace palimpsest::inference
