#include "tests/bench/workload.h"

#include <algorithm>

#include "common/base/random.h"
#include "common/context/state.h"

namespace palimpsest::bench {
namespace {

// keep_ratio of each head's window, drawn at random.
context::KeptPositions RandomKept(RandomStream& random, const context::ContextState& state,
                                  const context::EventDraft& draft) {
  context::KeptPositions kept(state.shape());
  std::vector<int32_t> slots;
  for (int l = 0; l < state.shape().layers; ++l) {
    for (int h = 0; h < state.shape().kv_heads; ++h) {
      slots.clear();
      state.AppendSlots(l, h, draft.window, slots);
      const int32_t w = static_cast<int32_t>(slots.size());
      const int32_t t = context::KeptCount(draft.method, draft.keep_ratio, w);
      for (int32_t i = 0; i < t; ++i) std::swap(slots[i], slots[random.Between(i, w - 1)]);
      slots.resize(t);
      std::sort(slots.begin(), slots.end());
      kept.AddHead(slots);
    }
  }
  return kept;
}

std::vector<attention::ReplayEvent> WriteLog(RandomStream& random,
                                             const context::ContextPolicy& policy,
                                             context::Shape shape, int32_t prompt_tokens,
                                             int32_t rows) {
  std::vector<attention::ReplayEvent> events;
  context::ContextState state(shape);
  for (; state.processed() < rows; state.Append()) {
    const context::Decision decision =
        context::Decide(policy, {.state = state, .prompt_tokens = prompt_tokens});
    const auto* draft = std::get_if<context::EventDraft>(&decision);
    if (!draft) continue;
    context::Event e{.at = draft->at,
                     .window = draft->window,
                     .method = draft->method,
                     .parameters = draft->parameters,
                     .reference = draft->reference};
    e.kept = RandomKept(random, state, *draft);
    if (!state.Apply(e).ok()) break;
    events.push_back({.event = std::move(e), .keep_ratio = draft->keep_ratio});
  }
  return events;
}

}  // namespace

Rollouts MakeRollouts(const Workload& work, const context::ContextPolicy& policy,
                      context::Shape shape) {
  RandomStream random(work.seed);
  const auto token = [&] { return static_cast<int32_t>(random.Below(work.vocab)); };
  Rollouts out;
  std::vector<int32_t> rows;
  for (int g = 0; g < work.prompts; ++g) {
    std::vector<int32_t> prompt(work.prompt_tokens);
    std::generate(prompt.begin(), prompt.end(), token);
    for (int r = 0; r < work.samples; ++r) {
      const int32_t spread = work.ragged ? work.response_tokens / 4 : 0;
      const auto length = static_cast<int32_t>(
          random.Between(work.response_tokens - spread, work.response_tokens + spread));
      out.tokens.push_back(prompt);
      for (int32_t i = 0; i <= length; ++i) out.tokens.back().push_back(token());
    }
  }
  // Another stream, so that the tokens do not depend on the policy.
  RandomStream kept(MixSeed({work.seed, Meaning("kept")}));
  for (const auto& tokens : out.tokens) {
    const auto n = static_cast<int32_t>(tokens.size()) - 1;
    out.sequences.push_back({.tokens = tokens, .prompt_tokens = work.prompt_tokens, .rows = n});
    out.sequences.back().events = WriteLog(kept, policy, shape, work.prompt_tokens, n);
    out.events_per_rollout += static_cast<double>(out.sequences.back().events.size());
  }
  out.events_per_rollout /= static_cast<double>(out.tokens.size());
  return out;
}

}  // namespace palimpsest::bench
