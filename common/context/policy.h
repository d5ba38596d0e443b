#pragma once

#include <variant>

#include "common/context/state.h"

// Context policies decide, they never act: snapshot in, decision out, no clock, no I/O.
namespace palimpsest::context {

struct NoTrigger {
  bool operator==(const NoTrigger&) const = default;
};
// When the live count reaches `budget` before a token is processed.
struct KvBudget {
  int32_t budget = 0;        // slots, > 0
  int32_t window = 0;        // slots, >= 1
  double keep_ratio = 0.25;  // [0, 1)
  // Of the budget, [0, 1): under pressure an event may come from EarliestLive() slots on. 0: never.
  double early = 0;
  // budget - floor(early * budget), the product in double; >= 1.
  int32_t EarliestLive() const { return budget - static_cast<int32_t>(early * budget); }
  bool operator==(const KvBudget&) const = default;
};
// At P + k * every; skipped when too few slots are there.
struct Segments {
  int32_t every = 0;
  int32_t window = 0;
  double keep_ratio = 0.25;
  bool operator==(const Segments&) const = default;
};
// When a step begins and >= max_turns turns are uncompacted: everything unprotected before the last
// n_protect_turns.
struct Turns {
  int32_t n_protect_turns = 0;            // >= 0
  std::optional<int32_t> max_turns = {};  // default n_protect_turns + 1
  double keep_ratio = 0.25;
  bool operator==(const Turns&) const = default;
};
// Only by RPC.
struct Manual {
  double keep_ratio = 0.25;
  bool operator==(const Manual&) const = default;
};

struct ContextPolicy {
  std::variant<NoTrigger, KvBudget, Segments, Turns, Manual> trigger = {};
  Method method = Method::kAttentionMatching;
  Parameters parameters = {};  // as recorded in every event; parameters.seed is mixed with `at` by
                               // nobody: it stands as is
  int32_t reference_tokens =
      128;                    // the last processed positions whose queries the fit listens to; >= 1
  bool after_window = false;  // restrict the reference range to positions >= window end
  std::optional<int32_t> protect = {};  // first tokens that no window touches; absent = the prompt
  bool stack = false;                   // never compact a compact block again
  bool operator==(const ContextPolicy&) const = default;
};

// An event without its kept positions: what the engine is asked to do.
struct EventDraft {
  int32_t at = 0;
  Range window = {};
  Method method = Method::kAttentionMatching;
  Parameters parameters = {};
  Range reference = {};
  double keep_ratio = 0;
  bool operator==(const EventDraft&) const = default;
};

// Of one sequence, just before the token at position state.processed() is processed.
struct PolicyInput {
  const ContextState& state;
  int32_t prompt_tokens = 0;
  // For `turns`: begin of each turn (a step's new tokens and response), ascending; and whether a
  // new step begins now.
  std::span<const int32_t> turn_begins = {};
  bool step_begins = false;
  // Memory is short: an event that comes earlier than it must is welcome.
  bool pressure = false;
};

struct Nothing {
  bool operator==(const Nothing&) const = default;
};
struct OutOfRoom {  // no window fits any more: the sequence ends with `length`
  bool operator==(const OutOfRoom&) const = default;
};
using Decision = std::variant<Nothing, EventDraft, OutOfRoom>;

// At admission: INVALID_ARGUMENT naming field and values when the policy can never work for this
// prompt (protected + window > budget, an event that would keep everything, a ratio out of range, a
// chooser the method lacks).
absl::Status Validate(const ContextPolicy& policy, int32_t prompt_tokens);

Decision Decide(const ContextPolicy& policy, const PolicyInput& input);

// The live count that the event would leave.
int32_t LiveCountAfter(const ContextState& state, const EventDraft& draft);

// A manual event now over `window` (must be block-aligned, unprotected): the draft, or
// INVALID_ARGUMENT.
absl::StatusOr<EventDraft> DraftManual(const ContextPolicy& policy, const PolicyInput& input,
                                       Range window);

// A lower bound of the positions whose queries (or keys, by reference_kind) any coming event may
// ask for; it never falls while the sequence goes on. So the engine records the token at
// state.processed() when the bound is <= processed(), and may free recorded positions below it.
// Exact for kv_budget (the live count grows by one per token; with `early` that of an early event)
// and segments; `turns` and `manual` may ask at any time: their bound trails processed() by
// reference_tokens, so they always record.
// INT32_MAX: no event will ever ask.
int32_t RecordQueriesFrom(const ContextPolicy& policy, const PolicyInput& input);

}  // namespace palimpsest::context
