#include <gmock/gmock.h>

#include <array>
#include <cmath>

#include "common/context/log.h"
#include "tests/unit/common/context/builders.h"

// Random policies over random lengths, with random choices of what is kept. Everything that the
// state and the policies say is compared with a naive state that holds sets of positions.
namespace palimpsest::context {
namespace {

struct Played {
  Shape shape;
  ContextPolicy policy;
  int32_t prompt = 0;
  bool exact = false;  // every head keeps KeptCount slots, as an engine does
  std::vector<int32_t> turns;
  std::vector<int32_t> tokens;
  std::vector<Event> events;
};

// A ratio in [0, 1) of a size that the trigger may use.
ContextPolicy RandomPolicy(RandomStream& random, int32_t prompt) {
  ContextPolicy policy;
  policy.method = static_cast<Method>(random.Between(1, 3));
  policy.parameters.chooser = DefaultChooser(policy.method);
  if (policy.method == Method::kEvict) {
    policy.parameters.chooser = static_cast<Chooser>(random.Between(5, 10));
  }
  policy.parameters.seed = random.Next64();
  policy.reference_tokens = static_cast<int32_t>(random.Between(1, 40));
  policy.after_window = random.Below(2) == 0;
  policy.stack = random.Below(3) == 0;
  if (random.Below(2) == 0) policy.protect = static_cast<int32_t>(random.Below(30));
  const int32_t first = policy.protect.value_or(prompt);
  const auto window = static_cast<int32_t>(random.Between(2, 24));
  const double ratio = random.Uniform();
  switch (random.Below(4)) {
    case 0:
      policy.trigger = Segments{static_cast<int32_t>(random.Between(1, 30)), window, ratio};
      break;
    case 1:
      policy.trigger = Turns{static_cast<int32_t>(random.Below(3)), std::nullopt, ratio};
      break;
    default:
      policy.trigger = KvBudget{first + window + static_cast<int32_t>(random.Below(20)), window,
                                ratio, random.Below(2) == 0 ? 0 : random.Uniform()};
  }
  return policy;
}

void ExpectSame(const ContextState& state, const NaiveState& naive) {
  ASSERT_EQ(state.processed(), naive.size());
  ASSERT_EQ(state.live_count(), naive.live_count());
  int32_t end = 0;
  const ContextState::Block* before = nullptr;
  for (const auto& block : state.blocks()) {
    ASSERT_EQ(block.range.begin, end);
    ASSERT_FALSE(block.range.empty());
    ASSERT_TRUE(before == nullptr || before->compact || block.compact) << "raw neighbours";
    for (int32_t p = block.range.begin; p < block.range.end; ++p) {
      ASSERT_EQ(block.compact, naive.compact(p));
    }
    end = block.range.end;
    before = &block;
  }
  ASSERT_EQ(end, state.processed());
  for (int32_t p = 0; p <= naive.size(); ++p) ASSERT_EQ(state.InsideCompact(p), !naive.aligned(p));
  const Range some = {naive.size() / 4, naive.size() * 2 / 3};
  for (int layer = 0; layer < state.shape().layers; ++layer) {
    for (int head = 0; head < state.shape().kv_heads; ++head) {
      const size_t h = static_cast<size_t>(layer * state.shape().kv_heads + head);
      std::vector<int32_t> slots;
      state.AppendSlots(layer, head, some, slots);
      ASSERT_EQ(slots, naive.Slots(h, some));
      ASSERT_EQ(state.CountSlots(layer, head, some), static_cast<int32_t>(slots.size()));
    }
  }
}

// The window by its definition: the first unprotected position of a block with a slot; then the
// smallest aligned end where some head has enough.
std::optional<Range> NaiveWindow(const Played& run, const NaiveState& state, int32_t slots) {
  int32_t begin = run.policy.protect.value_or(run.prompt);
  const auto next = [&](int32_t p) {  // begin of the block after the one that holds p
    do {
      ++p;
    } while (p < state.size() &&
             (!state.aligned(p) || (!state.compact(p) && !state.compact(p - 1))));
    return p;
  };
  while (begin < state.size() && (state.MostSlots({begin, next(begin)}) == 0 ||
                                  (run.policy.stack && state.compact(begin)))) {
    begin = next(begin);
  }
  for (int32_t end = begin + 1; end <= state.size(); ++end) {
    if (run.policy.stack && state.compact(end - 1)) return std::nullopt;
    if (state.aligned(end) && state.MostSlots({begin, end}) >= slots) return Range{begin, end};
  }
  return std::nullopt;
}

void ExpectDecisionFollowsTheRules(const Played& run, const NaiveState& state, bool pressure,
                                   const Decision& decision) {
  const auto* draft = std::get_if<EventDraft>(&decision);
  const int32_t at = state.size();
  if (const auto* t = std::get_if<KvBudget>(&run.policy.trigger)) {
    const int32_t live = state.live_count();
    const bool early =
        pressure && live < t->budget && live >= t->budget - std::floor(t->early * t->budget);
    if (live < t->budget && !early) {
      ASSERT_TRUE(std::holds_alternative<Nothing>(decision));
    }
    if (live >= t->budget) {
      ASSERT_FALSE(std::holds_alternative<Nothing>(decision));
    }
    if (live >= t->budget || early) {
      const auto window = NaiveWindow(run, state, t->window);
      ASSERT_EQ(draft != nullptr, window.has_value());
      if (draft != nullptr) {
        ASSERT_EQ(draft->window, *window);
      }
    }
    if (run.exact && !run.policy.stack) {
      ASSERT_LE(state.live_count(), t->budget);
      ASSERT_FALSE(std::holds_alternative<OutOfRoom>(decision));
    }
  }
  if (const auto* t = std::get_if<Segments>(&run.policy.trigger)) {
    const bool due = at > run.prompt && (at - run.prompt) % t->every == 0;
    const auto window = due ? NaiveWindow(run, state, t->window) : std::nullopt;
    ASSERT_EQ(draft != nullptr, window.has_value());
    if (draft != nullptr) {
      ASSERT_EQ(draft->window, *window);
    }
  }
  if (draft == nullptr) return;
  ASSERT_EQ(draft->at, at);
  ASSERT_GE(draft->window.begin, run.policy.protect.value_or(run.prompt));
  ASSERT_TRUE(state.aligned(draft->window.begin) && state.aligned(draft->window.end));
  for (int32_t p = draft->window.begin; run.policy.stack && p < draft->window.end; ++p) {
    ASSERT_FALSE(state.compact(p));
  }
}

// Plays one sequence token by token. ASSERT_* inside need a function that returns nothing.
void Play(uint64_t seed, Played& run) {
  RandomStream random(seed);
  run.shape = {static_cast<int32_t>(random.Between(1, 3)),
               static_cast<int32_t>(random.Between(1, 3))};
  run.prompt = static_cast<int32_t>(random.Between(1, 30));
  run.exact = random.Below(2) == 0;
  run.policy = RandomPolicy(random, run.prompt);
  ASSERT_TRUE(Validate(run.policy, run.prompt).ok());
  const auto length = static_cast<int32_t>(run.prompt + random.Between(1, 150));
  ContextState state(run.shape);
  NaiveState naive(run.shape);
  run.turns = {0};
  int32_t bound = 0;
  for (int32_t p = 0; p < length; ++p) {
    run.tokens.push_back(static_cast<int32_t>(random.Below(1000)));
    const bool step_begins = p > run.prompt && random.Below(12) == 0;
    if (step_begins) run.turns.push_back(p);
    const bool pressure = random.Below(4) == 0;
    const PolicyInput input{state, run.prompt, run.turns, step_begins, pressure};
    const int32_t record_from = RecordQueriesFrom(run.policy, input);
    ASSERT_GE(record_from, bound) << "the bound never falls";
    bound = record_from;
    const Decision decision = Decide(run.policy, input);
    ExpectDecisionFollowsTheRules(run, naive, pressure, decision);
    if (testing::Test::HasFatalFailure()) return;
    if (std::holds_alternative<OutOfRoom>(decision)) break;
    if (const auto* draft = std::get_if<EventDraft>(&decision)) {
      if (!draft->reference.empty()) {
        ASSERT_LE(bound, draft->reference.begin);
      }
      run.events.push_back(RandomEvent(*draft, naive, run.shape, run.exact, random));
      const int32_t after = LiveCountAfter(state, *draft);
      ASSERT_TRUE(state.Apply(run.events.back()).ok());
      if (run.exact) {
        ASSERT_EQ(after, state.live_count());
      }
      naive.Apply(run.events.back());
      ASSERT_TRUE(std::holds_alternative<Nothing>(Decide(run.policy, input))) << "one per `at`";
    }
    ExpectSame(state, naive);
    if (testing::Test::HasFatalFailure()) return;
    state.Append();
    naive.Append();
  }
}

TEST(RandomLogTest, StateAndPoliciesAgreeWithSetsOfPositionsAndTheCheckerAccepts) {
  size_t events = 0;
  for (uint64_t seed = 0; seed < 400; ++seed) {
    SCOPED_TRACE(seed);
    Played run;
    Play(seed, run);
    if (HasFatalFailure()) return;
    ASSERT_TRUE(CompleteDigests(run.tokens, run.events).ok());
    ASSERT_TRUE(CheckLog(run.shape, run.tokens, run.events).ok());
    events += run.events.size();
  }
  EXPECT_GT(events, 2000u) << "the runs must have something to say";
}

TEST(RandomLogTest, ADroppedRepeatedOrSwappedEventIsRefused) {
  int tried = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SCOPED_TRACE(seed);
    Played run;
    Play(seed, run);
    if (run.events.size() < 2) continue;
    ++tried;
    ASSERT_TRUE(CompleteDigests(run.tokens, run.events).ok());
    std::vector<Event> dropped(run.events.begin() + 1, run.events.end());
    EXPECT_FALSE(CheckLog(run.shape, run.tokens, dropped).ok());
    std::vector<Event> repeated = run.events;
    repeated.push_back(run.events.back());
    EXPECT_FALSE(CheckLog(run.shape, run.tokens, repeated).ok());
    std::vector<Event> swapped = run.events;
    std::swap(swapped[0], swapped[1]);
    EXPECT_FALSE(CheckLog(run.shape, run.tokens, swapped).ok());
  }
  EXPECT_GT(tried, 30);
}

// Whatever numbers a log holds, the checker answers (under the sanitizers: without a fault).
TEST(RandomLogTest, HostileNumbersAreAnswered) {
  constexpr std::array<int32_t, 8> kNumbers = {INT32_MIN,     -1,       0, 1, 2, 60,
                                               INT32_MAX - 1, INT32_MAX};
  RandomStream random(7);
  Played run;
  for (uint64_t seed = 0; run.events.size() < 3; ++seed) {
    run = Played();
    Play(seed, run);
  }
  for (int round = 0; round < 20000; ++round) {
    std::vector<Event> events = run.events;
    Event& event = events[random.Below(static_cast<int64_t>(events.size()))];
    const auto number = [&] { return kNumbers[random.Below(kNumbers.size())]; };
    for (int32_t* field : {&event.at, &event.window.begin, &event.window.end,
                           &event.reference.begin, &event.reference.end}) {
      if (random.Below(3) == 0) *field = number();
    }
    if (random.Below(4) == 0) {
      event.kept = KeptPositions(run.shape);
      for (int head = 0; head < run.shape.layers * run.shape.kv_heads; ++head) {
        event.kept.AddHead(std::vector<int32_t>{number(), number()});
      }
    }
    CheckLog(run.shape, run.tokens, events).IgnoreError();
  }
}

}  // namespace
}  // namespace palimpsest::context
