#include "common/context/policy.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/unit/common/context/builders.h"

namespace palimpsest::context {
namespace {

constexpr Shape kShape{1, 2};
constexpr int32_t kNever = std::numeric_limits<int32_t>::max();

ContextState Raw(int32_t n) {
  ContextState state(kShape);
  state.Append(n);
  return state;
}

// [begin, end) becomes a compact block whose heads hold `a` and `b`; then `more` tokens.
void Write(ContextState& state, Range window, std::vector<int32_t> a, std::vector<int32_t> b,
           int32_t more) {
  ASSERT_TRUE(state.Apply(MakeEvict(state.processed(), window, MakeKept(kShape, {a, b}))).ok());
  state.Append(more);
}

std::optional<EventDraft> Drafted(const Decision& decision) {
  const auto* draft = std::get_if<EventDraft>(&decision);
  return draft == nullptr ? std::nullopt : std::optional(*draft);
}

std::optional<Range> WindowOf(const Decision& decision) {
  const auto draft = Drafted(decision);
  return draft ? std::optional(draft->window) : std::nullopt;
}

bool IsNothing(const Decision& d) { return std::holds_alternative<Nothing>(d); }
bool IsOutOfRoom(const Decision& d) { return std::holds_alternative<OutOfRoom>(d); }

ContextPolicy Budget(int32_t budget, int32_t window, double keep_ratio = 0.25) {
  return {.trigger = KvBudget{budget, window, keep_ratio}};
}

TEST(KvBudgetTest, ActsWhenTheLiveCountReachesTheBudgetAndNotBefore) {
  const ContextPolicy policy = Budget(20, 8);
  const ContextState before = Raw(19);
  const ContextState reached = Raw(20);
  EXPECT_TRUE(IsNothing(Decide(policy, {.state = before, .prompt_tokens = 4})));
  const auto draft = Drafted(Decide(policy, {.state = reached, .prompt_tokens = 4}));
  ASSERT_TRUE(draft.has_value());
  EXPECT_EQ(*draft, (EventDraft{.at = 20,
                                .window = {4, 12},
                                .method = Method::kAttentionMatching,
                                .parameters = policy.parameters,
                                .reference = {0, 20},
                                .keep_ratio = 0.25}));
}

TEST(KvBudgetTest, TheWindowBeginsWithTheOldBlockAndEndsWhereSomeHeadHasEnough) {
  ContextState state = Raw(20);
  Write(state, {4, 12}, {5, 8}, {9}, 6);  // live: 4 + 2 + 14 = 20 on head 0
  EXPECT_EQ(WindowOf(Decide(Budget(20, 8), {.state = state, .prompt_tokens = 4})),
            (Range{4, 18}));  // 2 of the block and 6 raw
}

TEST(KvBudgetTest, AWindowNeverEndsInsideACompactBlock) {
  ContextState state = Raw(20);
  Write(state, {6, 12}, {6, 7, 8, 9, 10}, {11}, 5);
  // [4, 6) gives 2, the block 5 more: the fourth slot lies inside, so the block goes whole.
  EXPECT_EQ(WindowOf(Decide(Budget(20, 4), {.state = state, .prompt_tokens = 4})), (Range{4, 12}));
}

TEST(KvBudgetTest, EmptyBlocksAreSkippedAtTheBegin) {
  ContextState state = Raw(20);
  Write(state, {4, 12}, {}, {}, 8);
  EXPECT_EQ(WindowOf(Decide(Budget(20, 8), {.state = state, .prompt_tokens = 4})), (Range{12, 20}));
  ContextState one_head = Raw(20);
  Write(one_head, {4, 12}, {}, {9}, 8);
  EXPECT_EQ(WindowOf(Decide(Budget(20, 8), {.state = one_head, .prompt_tokens = 4})),
            (Range{4, 19}))
      << "a slot in any head makes a block count: head 1 has 9 and seven raw ones";
}

TEST(KvBudgetTest, ProtectReplacesThePromptAsTheBound) {
  ContextPolicy policy = Budget(20, 8);
  policy.protect = 2;
  const ContextState state = Raw(20);
  EXPECT_EQ(WindowOf(Decide(policy, {.state = state, .prompt_tokens = 16})), (Range{2, 10}));
  policy.protect = 0;
  EXPECT_EQ(WindowOf(Decide(policy, {.state = state, .prompt_tokens = 16})), (Range{0, 8}));
}

TEST(KvBudgetTest, ThereIsOneEventPerPosition) {
  ContextState state = Raw(20);
  Write(state, {4, 12}, {4, 5, 6, 7, 8, 9, 10}, {4}, 0);
  const ContextPolicy tight = Budget(10, 4);
  EXPECT_TRUE(IsNothing(Decide(tight, {.state = state, .prompt_tokens = 4})));
  state.Append();
  EXPECT_TRUE(Drafted(Decide(tight, {.state = state, .prompt_tokens = 4})).has_value());
}

TEST(KvBudgetTest, NoWindowThatFitsMeansOutOfRoom) {
  const ContextState state = Raw(20);
  EXPECT_TRUE(IsOutOfRoom(Decide(Budget(20, 8), {.state = state, .prompt_tokens = 13})));
  EXPECT_TRUE(IsOutOfRoom(Decide(Budget(20, 8), {.state = state, .prompt_tokens = 20})));
  EXPECT_EQ(WindowOf(Decide(Budget(20, 8), {.state = state, .prompt_tokens = 12})),
            (Range{12, 20}));
  EXPECT_TRUE(IsOutOfRoom(Decide(Budget(20, 1), {.state = state, .prompt_tokens = 4})))
      << "attention_matching keeps the one slot of the window: it would drop nothing";
}

TEST(KvBudgetTest, StackLeavesCompactBlocksAlone) {
  ContextPolicy policy = Budget(20, 8);
  policy.stack = true;
  ContextState state = Raw(20);
  Write(state, {4, 12}, {5, 8}, {9, 10}, 6);
  EXPECT_EQ(WindowOf(Decide(policy, {.state = state, .prompt_tokens = 4})), (Range{12, 20}));
  Write(state, {12, 20}, {12, 13}, {13, 14}, 6);  // live: 4 + 2 + 2 + 12 = 20
  EXPECT_EQ(WindowOf(Decide(policy, {.state = state, .prompt_tokens = 4})), (Range{20, 28}));
  ContextPolicy small = Budget(10, 13);
  small.stack = true;
  EXPECT_TRUE(IsOutOfRoom(Decide(small, {.state = state, .prompt_tokens = 4})));
}

TEST(KvBudgetTest, StackNeverPassesTheNextCompactBlock) {
  ContextPolicy policy = Budget(16, 6);
  policy.stack = true;
  ContextState state = Raw(20);
  Write(state, {8, 12}, {8, 9}, {8, 9}, 0);  // raw [4, 8) before the block holds only 4
  state.Append();
  EXPECT_TRUE(IsOutOfRoom(Decide(policy, {.state = state, .prompt_tokens = 4})));
}

ContextPolicy Early(int32_t budget, int32_t window, double early) {
  return {.trigger = KvBudget{budget, window, 0.25, early}};
}

TEST(KvBudgetTest, UnderPressureAnEventMayComeEarlierWithinItsBound) {
  const ContextPolicy policy = Early(20, 8, 0.25);
  for (int32_t live = 10; live <= 20; ++live) {
    const ContextState state = Raw(live);
    const PolicyInput calm{.state = state, .prompt_tokens = 4};
    PolicyInput pressed = calm;
    pressed.pressure = true;
    EXPECT_EQ(IsNothing(Decide(policy, calm)), live < 20) << live;
    EXPECT_EQ(IsNothing(Decide(policy, pressed)), live < 15) << live;
    EXPECT_EQ(IsNothing(Decide(Budget(20, 8), pressed)), live < 20) << live;
    if (live >= 15) {
      EXPECT_EQ(WindowOf(Decide(policy, pressed)), (Range{4, 12})) << live;
    }
  }
  EXPECT_EQ((KvBudget{10, 4, 0.25, 0.999}).EarliestLive(), 1);
  EXPECT_EQ((KvBudget{7, 4, 0.25, 0.5}).EarliestLive(), 4);
}

TEST(KvBudgetTest, PressureEndsNothing) {
  const ContextState state = Raw(19);  // no window behind a prompt of 13 holds 8 slots
  EXPECT_TRUE(IsNothing(
      Decide(Early(20, 8, 0.5), {.state = state, .prompt_tokens = 13, .pressure = true})));
  const ContextState full = Raw(20);
  EXPECT_TRUE(IsOutOfRoom(
      Decide(Early(20, 8, 0.5), {.state = full, .prompt_tokens = 13, .pressure = true})));
}

TEST(KvBudgetTest, PressureMakesNoSecondEventAtOnePlace) {
  ContextState state = Raw(20);
  Write(state, {4, 12}, {4, 5, 6, 7, 8, 9, 10}, {4}, 0);
  const PolicyInput input{.state = state, .prompt_tokens = 4, .pressure = true};
  EXPECT_TRUE(IsNothing(Decide(Early(40, 8, 0.9), input)));
  state.Append();
  EXPECT_TRUE(Drafted(Decide(Early(40, 8, 0.9), input)).has_value());
}

TEST(KvBudgetTest, TheLiveCountAfterAnEventIsThatOfItsFullestHead) {
  ContextState state = Raw(20);
  Write(state, {4, 12}, {5, 6, 7, 8}, {9}, 6);  // head 0: 4 + 4 + 14 live
  // Head 0 keeps floor(10 / 4) of its window and has 12 outside, head 1 floor(7 / 4) and 12.
  EXPECT_EQ(LiveCountAfter(state, {.at = 26, .window = {4, 18}, .keep_ratio = 0.25}), 12 + 2);
}

TEST(SegmentsTest, ActsEveryNTokensAfterThePrompt) {
  const ContextPolicy policy = {.trigger = Segments{5, 4, 0.5}};
  for (int32_t n = 0; n <= 40; ++n) {
    const ContextState state = Raw(n);
    const auto window = WindowOf(Decide(policy, {.state = state, .prompt_tokens = 7}));
    const bool due = n == 12 || n == 17 || n == 22 || n == 27 || n == 32 || n == 37;
    EXPECT_EQ(window, due ? std::optional(Range{7, 11}) : std::nullopt) << n;
  }
}

TEST(SegmentsTest, IsSkippedWhenTooFewSlotsAreThere) {
  const ContextPolicy policy = {.trigger = Segments{5, 8, 0.5}};
  const ContextState few = Raw(12);
  const ContextState enough = Raw(17);
  EXPECT_TRUE(IsNothing(Decide(policy, {.state = few, .prompt_tokens = 7})));
  EXPECT_EQ(WindowOf(Decide(policy, {.state = enough, .prompt_tokens = 7})), (Range{7, 15}));
}

TEST(SegmentsTest, NothingHappensInsideThePromptEvenWhenItIsNotProtected) {
  ContextPolicy policy = {.trigger = Segments{5, 2, 0.5}};
  policy.protect = 0;
  for (int32_t n = 0; n <= 20; ++n) {
    const ContextState state = Raw(n);
    EXPECT_TRUE(IsNothing(Decide(policy, {.state = state, .prompt_tokens = 20}))) << n;
  }
}

TEST(TurnsTest, CompactsWhatIsOlderThanTheProtectedTurnsWhenAStepBegins) {
  const ContextPolicy policy = {.trigger = Turns{1, std::nullopt, 0.25}};
  const ContextState state = Raw(30);
  const std::vector<int32_t> two = {0, 18};
  const std::vector<int32_t> one = {0};
  const std::vector<int32_t> with_new = {0, 18, 30};
  PolicyInput input{.state = state, .prompt_tokens = 10, .turn_begins = two, .step_begins = true};
  EXPECT_EQ(WindowOf(Decide(policy, input)), (Range{10, 18}));
  input.turn_begins = with_new;
  EXPECT_EQ(WindowOf(Decide(policy, input)), (Range{10, 18})) << "the new turn is no turn yet";
  input.turn_begins = one;
  EXPECT_TRUE(IsNothing(Decide(policy, input))) << "one turn, which is protected";
  input.turn_begins = two;
  input.step_begins = false;
  EXPECT_TRUE(IsNothing(Decide(policy, input)));
}

TEST(TurnsTest, CountsOnlyTurnsThatNoWindowHasTouched) {
  const ContextPolicy policy = {.trigger = Turns{1, 3, 0.25}};
  ContextState state = Raw(30);
  const std::vector<int32_t> begins = {0, 12, 20, 30, 34, 38};
  const auto at_step = [&] {
    return WindowOf(Decide(
        policy, {.state = state, .prompt_tokens = 10, .turn_begins = begins, .step_begins = true}));
  };
  EXPECT_EQ(at_step(), (Range{10, 20}));
  Write(state, {10, 20}, {11, 15}, {12, 13}, 4);
  EXPECT_EQ(at_step(), std::nullopt) << "at 34: turns [20,30) and [30,34) only";
  state.Append(4);
  EXPECT_EQ(at_step(), (Range{10, 34})) << "at 38: three; the old block is unprotected";
}

TEST(TurnsTest, NoProtectedTurnMeansTheWindowReachesUpToNow) {
  const ContextPolicy policy = {.trigger = Turns{0, std::nullopt, 0.25}};
  const ContextState state = Raw(30);
  const std::vector<int32_t> begins = {0};
  EXPECT_EQ(WindowOf(Decide(
                policy,
                {.state = state, .prompt_tokens = 10, .turn_begins = begins, .step_begins = true})),
            (Range{10, 30}));
}

TEST(TurnsTest, NothingHappensWhenEverythingOlderIsProtected) {
  ContextPolicy policy = {.trigger = Turns{1, std::nullopt, 0.25}};
  policy.protect = 18;
  const ContextState state = Raw(30);
  const std::vector<int32_t> begins = {0, 18};
  EXPECT_TRUE(IsNothing(Decide(
      policy, {.state = state, .prompt_tokens = 10, .turn_begins = begins, .step_begins = true})));
}

TEST(TurnsTest, StackTakesOnlyRawTurns) {
  ContextPolicy policy = {.trigger = Turns{1, std::nullopt, 0.25}};
  policy.stack = true;
  ContextState state = Raw(30);
  Write(state, {10, 18}, {11}, {12}, 10);
  const std::vector<int32_t> begins = {0, 18, 30};
  EXPECT_EQ(WindowOf(Decide(
                policy,
                {.state = state, .prompt_tokens = 10, .turn_begins = begins, .step_begins = true})),
            (Range{18, 30}));
}

TEST(ReferenceTest, IsTheLastProcessedPositions) {
  ContextPolicy policy = Budget(200, 64);
  const ContextState state = Raw(200);
  EXPECT_EQ(Drafted(Decide(policy, {.state = state, .prompt_tokens = 20}))->reference,
            (Range{72, 200}));
  policy.reference_tokens = 500;
  EXPECT_EQ(Drafted(Decide(policy, {.state = state, .prompt_tokens = 20}))->reference,
            (Range{0, 200}));
}

TEST(ReferenceTest, AfterWindowStartsAtTheWindowsEndAndFallsBackWhenThatIsEmpty) {
  ContextPolicy policy = Budget(200, 100);
  policy.after_window = true;
  const ContextState state = Raw(200);
  EXPECT_EQ(Drafted(Decide(policy, {.state = state, .prompt_tokens = 20}))->reference,
            (Range{120, 200}));
  EXPECT_EQ(Drafted(Decide(policy, {.state = state, .prompt_tokens = 100}))->reference,
            (Range{72, 200}));
  policy.reference_tokens = 30;
  EXPECT_EQ(Drafted(Decide(policy, {.state = state, .prompt_tokens = 20}))->reference,
            (Range{170, 200}));
}

TEST(ReferenceTest, MethodsThatAskNoQueryRecordTheEmptyRange) {
  const ContextState state = Raw(200);
  const auto reference = [&](Method method, Chooser chooser, ReferenceKind kind) {
    ContextPolicy policy = Budget(200, 64);
    policy.method = method;
    policy.parameters.chooser = chooser;
    policy.parameters.reference_kind = kind;
    return Drafted(Decide(policy, {.state = state, .prompt_tokens = 20}))->reference;
  };
  const auto queries = ReferenceKind::kQueries;
  EXPECT_EQ(reference(Method::kMarkovian, Chooser::kRms, queries), Range{});
  EXPECT_EQ(reference(Method::kEvict, Chooser::kRecent, queries), Range{});
  EXPECT_EQ(reference(Method::kEvict, Chooser::kRandom, queries), Range{});
  EXPECT_EQ(reference(Method::kEvict, Chooser::kAttention, queries), (Range{72, 200}));
  EXPECT_EQ(reference(Method::kAttentionMatching, Chooser::kRms, ReferenceKind::kRandom),
            (Range{72, 200}));
}

TEST(ManualTest, DraftsTheWindowThatIsAsked) {
  ContextPolicy policy = {.trigger = Manual{0.5}};
  const ContextState state = Raw(40);
  const PolicyInput input{.state = state, .prompt_tokens = 10};
  const auto draft = DraftManual(policy, input, {12, 20});
  ASSERT_TRUE(draft.ok());
  EXPECT_EQ(draft->at, 40);
  EXPECT_EQ(draft->window, (Range{12, 20}));
  EXPECT_EQ(draft->reference, (Range{0, 40}));
  EXPECT_EQ(draft->keep_ratio, 0.5);
  EXPECT_TRUE(IsNothing(Decide(policy, input))) << "never by itself";
}

TEST(ManualTest, AWindowThatTheLogOrThePolicyForbidsIsRefused) {
  ContextPolicy policy = {.trigger = Manual{0.5}};
  ContextState state = Raw(40);
  Write(state, {12, 20}, {12}, {13, 14}, 4);
  const PolicyInput input{.state = state, .prompt_tokens = 10};
  const auto why = [&](Range window) {
    return std::string(DraftManual(policy, input, window).status().message());
  };
  EXPECT_EQ(why({12, 30}), "");
  EXPECT_THAT(why({9, 30}), testing::StartsWith("window.begin=9"));
  EXPECT_THAT(why({14, 30}), testing::StartsWith("window.begin=14"));
  EXPECT_THAT(why({10, 14}), testing::StartsWith("window.end=14"));
  EXPECT_THAT(why({10, 45}), testing::StartsWith("window.end=45"));
  EXPECT_THAT(why({30, 30}), testing::StartsWith("window="));
  EXPECT_THAT(why({kNever, -kNever}), testing::StartsWith("window="));
  EXPECT_THAT(why({20, 21}), testing::HasSubstr("drop nothing"));
  policy.stack = true;
  EXPECT_THAT(why({10, 30}), testing::HasSubstr("stack"));
  EXPECT_EQ(why({20, 30}), "");
  policy.trigger = NoTrigger{};
  EXPECT_THAT(why({20, 30}), testing::StartsWith("trigger"));
  policy.trigger = Manual{0.5};
  Write(state, {30, 40}, {}, {}, 0);
  EXPECT_THAT(why({20, 30}), testing::StartsWith("at=44"));
}

TEST(RecordQueriesFromTest, IsExactForTheBudgetAndForSegments) {
  const ContextState state = Raw(50);
  const PolicyInput input{.state = state, .prompt_tokens = 20};
  EXPECT_EQ(RecordQueriesFrom(Budget(400, 64), input), 400 - 128);
  EXPECT_EQ(RecordQueriesFrom(Budget(100, 64), input), 0);
  EXPECT_EQ(RecordQueriesFrom({.trigger = Segments{200, 64, 0.25}}, input), 220 - 128);
  EXPECT_EQ(RecordQueriesFrom({.trigger = Segments{15, 64, 0.25}, .reference_tokens = 5}, input),
            50 - 5);
  ContextState later = Raw(400);
  Write(later, {20, 84}, {30}, {31}, 1);  // live 338: the next event is 62 tokens on
  EXPECT_EQ(RecordQueriesFrom(Budget(400, 64), {.state = later, .prompt_tokens = 20}),
            401 + 62 - 128);
}

TEST(RecordQueriesFromTest, AnEarlyEventFindsItsQueries) {
  const ContextState state = Raw(50);
  const PolicyInput input{.state = state, .prompt_tokens = 20};
  EXPECT_EQ(RecordQueriesFrom(Early(400, 64, 0.25), input), 300 - 128);
  EXPECT_EQ(RecordQueriesFrom(Early(400, 64, 0), input), 400 - 128);
  const ContextState past = Raw(350);  // it may come at any moment
  EXPECT_EQ(RecordQueriesFrom(Early(400, 64, 0.25), {.state = past, .prompt_tokens = 20}),
            350 - 128);
}

TEST(RecordQueriesFromTest, TurnsAndManualAlwaysRecord) {
  const ContextState state = Raw(500);
  const PolicyInput input{.state = state, .prompt_tokens = 20};
  EXPECT_EQ(RecordQueriesFrom({.trigger = Manual{}}, input), 372);
  EXPECT_EQ(RecordQueriesFrom({.trigger = Turns{}}, input), 372);
}

TEST(RecordQueriesFromTest, KeysAreRecordedAsQueriesAre) {
  const ContextState state = Raw(50);
  ContextPolicy policy = Budget(400, 64);
  policy.parameters.reference_kind = ReferenceKind::kKeys;
  EXPECT_EQ(RecordQueriesFrom(policy, {.state = state, .prompt_tokens = 20}), 400 - 128);
}

TEST(RecordQueriesFromTest, NobodyAsksWithoutATriggerOrWithoutQueries) {
  const ContextState state = Raw(500);
  const PolicyInput input{.state = state, .prompt_tokens = 20};
  EXPECT_EQ(RecordQueriesFrom({}, input), kNever);
  ContextPolicy policy = Budget(400, 64);
  policy.parameters.reference_kind = ReferenceKind::kRandom;
  EXPECT_EQ(RecordQueriesFrom(policy, input), kNever);
  policy = Budget(400, 64);
  policy.method = Method::kMarkovian;
  EXPECT_EQ(RecordQueriesFrom(policy, input), kNever);
}

}  // namespace
}  // namespace palimpsest::context
