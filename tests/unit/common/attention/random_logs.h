#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <optional>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/base/random.h"
#include "common/context/state.h"

// Logs without a policy behind them: whatever a log may hold, drawn at random.
namespace palimpsest::attention::testing {

inline constexpr int kLayers = 2, kToyHeads = 4, kKvHeads = 2, kToyWidth = 8, kVocab = 11;
inline constexpr context::Shape kToyShape{.layers = kLayers, .kv_heads = kKvHeads};

// A random event at `at` that fits the state: any block-aligned window, any method, ragged kept
// counts.
inline std::optional<ReplayEvent> RandomEvent(RandomStream& random,
                                              const context::ContextState& state) {
  const int32_t at = state.processed();
  context::Range window{static_cast<int32_t>(random.Below(at)), 0};
  window.end = static_cast<int32_t>(random.Between(window.begin + 1, at));
  while (state.InsideCompact(window.begin)) --window.begin;
  while (state.InsideCompact(window.end)) ++window.end;
  context::Event e{
      .at = at, .window = window, .method = static_cast<context::Method>(random.Between(1, 3))};
  if (random.Uniform() < 0.5) e.method = context::Method::kAttentionMatching;
  e.parameters.mu = std::exp(random.Uniform() * 6 - 6);
  e.parameters.lambda = std::exp(random.Uniform() * 6 - 6);
  if (random.Uniform() < 0.5)
    e.parameters.log_upper = 0.2, e.parameters.log_lower = -0.2;  // active bounds
  e.reference.begin = static_cast<int32_t>(random.Below(at));
  e.reference.end = static_cast<int32_t>(random.Between(e.reference.begin + 1, at));
  if (e.method == context::Method::kMarkovian) e.reference = {};
  e.kept = context::KeptPositions(kToyShape);
  std::vector<int32_t> slots, kept;
  for (int l = 0; l < kLayers; ++l) {
    for (int h = 0; h < kKvHeads; ++h) {
      slots.clear();
      kept.clear();
      state.AppendSlots(l, h, window, slots);
      const double keep = random.Uniform();
      for (int32_t p : slots) {
        if (e.method != context::Method::kMarkovian && random.Uniform() < keep) kept.push_back(p);
      }
      if (e.method == context::Method::kAttentionMatching && kept.empty() && !slots.empty())
        kept.push_back(slots.back());
      if (e.method == context::Method::kAttentionMatching && slots.empty()) return std::nullopt;
      e.kept.AddHead(kept);
    }
  }
  return ReplayEvent{.event = e};
}

struct RandomBatch {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<ReplaySequence> sequences;
};

inline std::vector<ReplayEvent> RandomEvents(RandomStream& random, std::vector<ReplayEvent> events,
                                             int32_t from, int32_t to, double rate) {
  context::ContextState state(kToyShape);
  for (const ReplayEvent& e : events) {
    state.Append(e.event.at - state.processed());
    EXPECT_TRUE(state.Apply(e.event).ok());
  }
  for (int32_t at = std::max(from, 2); at < to; ++at) {
    if (random.Uniform() >= rate) continue;
    state.Append(at - state.processed());
    if (auto e = RandomEvent(random, state)) {
      EXPECT_TRUE(state.Apply(e->event).ok());
      events.push_back(std::move(*e));
    }
  }
  return events;
}

// Groups of responses to one prompt, events inside prompts and responses, different events each.
inline RandomBatch MakeBatch(uint64_t seed, double event_rate = 0.12) {
  RandomStream random(seed);
  RandomBatch batch;
  const int groups = static_cast<int>(random.Between(1, 2));
  for (int g = 0; g < groups; ++g) {
    const auto prompt_tokens = static_cast<int32_t>(random.Between(0, 12));
    std::vector<int32_t> prompt;
    for (int i = 0; i < prompt_tokens; ++i)
      prompt.push_back(static_cast<int32_t>(random.Below(kVocab)));
    const auto prompt_events = RandomEvents(random, {}, 0, prompt_tokens, event_rate);
    const int responses = static_cast<int>(random.Between(1, 3));
    for (int r = 0; r < responses; ++r) {
      std::vector<int32_t> tokens = prompt;
      const auto length = random.Between(2, 30);
      for (int i = 0; i < length; ++i) tokens.push_back(static_cast<int32_t>(random.Below(kVocab)));
      const auto rows = static_cast<int32_t>(tokens.size()) - 1;
      batch.tokens.push_back(tokens);
      batch.sequences.push_back(
          {.prompt_tokens = prompt_tokens,
           .rows = rows,
           .events = RandomEvents(random, prompt_events, prompt_tokens, rows, event_rate)});
    }
  }
  for (size_t i = 0; i < batch.tokens.size(); ++i) batch.sequences[i].tokens = batch.tokens[i];
  return batch;
}

}  // namespace palimpsest::attention::testing
