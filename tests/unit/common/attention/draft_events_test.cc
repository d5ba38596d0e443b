#include "common/attention/draft_events.h"

#include <gtest/gtest.h>

#include <variant>

namespace palimpsest::attention {
namespace {

constexpr context::Shape kShape = {.layers = 2, .kv_heads = 2};

context::ContextPolicy Budget(context::Method method) {
  context::ContextPolicy policy{
      .trigger = context::KvBudget{.budget = 16, .window = 8, .keep_ratio = 0.5}, .method = method};
  policy.parameters.chooser = context::DefaultChooser(method);
  return policy;
}

TEST(DraftEventsTest, EventsFallWhereTheLiveCountReachesTheBudget) {
  const auto events = DraftEvents(Budget(context::Method::kAttentionMatching), kShape, 4, 24);
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_EQ(events->size(), 2u);
  EXPECT_EQ((*events)[0].event.at, 16);  // keeps 4 of 8: room for 4 tokens
  EXPECT_EQ((*events)[0].event.window, (context::Range{4, 12}));
  EXPECT_EQ((*events)[1].event.at, 20);
  EXPECT_EQ((*events)[1].event.window, (context::Range{4, 16}));
  EXPECT_FALSE((*events)[0].forced());
  EXPECT_EQ((*events)[0].keep_ratio, 0.5);
}

TEST(DraftEventsTest, WindowsDoNotHangOnWhichSlotsAreKept) {
  for (const auto method : {context::Method::kAttentionMatching, context::Method::kEvict,
                            context::Method::kMarkovian}) {
    const context::ContextPolicy policy = Budget(method);
    const auto events = DraftEvents(policy, kShape, 4, 100);
    ASSERT_TRUE(events.ok()) << events.status();
    EXPECT_GT(events->size(), 5u);
    context::ContextState state(kShape);
    size_t next = 0;
    for (int32_t position = 0; position < 100; ++position, state.Append()) {
      const auto decision = context::Decide(policy, {.state = state, .prompt_tokens = 4});
      const auto* draft = std::get_if<context::EventDraft>(&decision);
      if (draft == nullptr) continue;
      ASSERT_LT(next, events->size());
      context::Event event = (*events)[next++].event;
      EXPECT_EQ(event.at, draft->at);
      EXPECT_EQ(event.window, draft->window);
      EXPECT_EQ(event.reference, draft->reference);
      event.kept = context::KeptPositions(kShape);  // the last slots, not the first
      for (int head = 0; head < 4; ++head) {
        std::vector<int32_t> slots;
        state.AppendSlots(head / 2, head % 2, event.window, slots);
        const auto count =
            context::KeptCount(method, draft->keep_ratio, static_cast<int32_t>(slots.size()));
        event.kept.AddHead(std::vector<int32_t>(slots.end() - count, slots.end()));
      }
      ASSERT_TRUE(state.Apply(event).ok());
    }
    EXPECT_EQ(next, events->size());
  }
}

// Three whole turns stand before the first event; from then on each turn that begins has one.
TEST(DraftEventsTest, TurnsAreCompactedWhereTheNextOneBegins) {
  context::ContextPolicy policy{.trigger = context::Turns{.n_protect_turns = 2, .keep_ratio = 0.5}};
  const std::vector<int32_t> begins = {4, 10, 15, 24, 30};
  const auto events = DraftEvents(policy, kShape, 4, 34, begins);
  ASSERT_TRUE(events.ok()) << events.status();
  ASSERT_EQ(events->size(), 2u);
  EXPECT_EQ((*events)[0].event.at, 24);
  EXPECT_EQ((*events)[0].event.window, (context::Range{4, 10}));
  EXPECT_EQ((*events)[1].event.at, 30);
  EXPECT_EQ((*events)[1].event.window, (context::Range{4, 15}));
  EXPECT_TRUE(DraftEvents(policy, kShape, 4, 24, begins)->empty()) << "no row is there to see it";
}

TEST(DraftEventsTest, PoliciesThatCannotWorkOrNeedMoreThanASequenceAreRefused) {
  EXPECT_TRUE(DraftEvents({}, kShape, 4, 50)->empty());
  EXPECT_FALSE(DraftEvents({.trigger = context::Turns{}}, kShape, 4, 50).ok());
  EXPECT_FALSE(DraftEvents({.trigger = context::Manual{}}, kShape, 4, 50).ok());
  EXPECT_FALSE(DraftEvents(Budget(context::Method::kAttentionMatching), kShape, 12, 50).ok());
  context::ContextPolicy stack = Budget(context::Method::kAttentionMatching);
  stack.stack = true;  // runs out of room
  EXPECT_FALSE(DraftEvents(stack, kShape, 4, 100).ok());
}

}  // namespace
}  // namespace palimpsest::attention
