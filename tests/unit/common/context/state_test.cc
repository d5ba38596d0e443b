#include "common/context/state.h"

#include <gmock/gmock.h>

#include <limits>

#include "tests/unit/common/context/builders.h"

namespace palimpsest::context {
namespace {

using ::testing::ElementsAre;
using ::testing::StartsWith;

constexpr Shape kShape{1, 2};

// [0,4) raw, [4,10) compact, [10,16) raw. Head 0 holds {5, 8} of the block, head 1 {9}.
ContextState Written() {
  ContextState state(kShape);
  state.Append(12);
  EXPECT_TRUE(state.Apply(MakeEvict(12, {4, 10}, MakeKept(kShape, {{5, 8}, {9}}))).ok());
  state.Append(4);
  return state;
}

std::vector<Range> Ranges(const ContextState& state) {
  std::vector<Range> out;
  for (const auto& block : state.blocks()) out.push_back(block.range);
  return out;
}

TEST(ContextStateTest, IsEmptyAtFirst) {
  const ContextState state(kShape);
  EXPECT_EQ(state.processed(), 0);
  EXPECT_EQ(state.live_count(), 0);
  EXPECT_EQ(state.last_event_at(), -1);
  EXPECT_TRUE(state.blocks().empty());
}

TEST(ContextStateTest, AppendedTokensMakeOneRawBlock) {
  ContextState state(kShape);
  state.Append(3);
  state.Append();
  state.Append(0);
  EXPECT_THAT(Ranges(state), ElementsAre(Range{0, 4}));
  EXPECT_EQ(state.live_count(), 4);
}

TEST(ContextStateTest, AnEventCutsTheRawBlockThatItEats) {
  const ContextState state = Written();
  EXPECT_THAT(Ranges(state), ElementsAre(Range{0, 4}, Range{4, 10}, Range{10, 16}));
  EXPECT_FALSE(state.blocks()[0].compact);
  EXPECT_TRUE(state.blocks()[1].compact);
  EXPECT_FALSE(state.blocks()[2].compact);
  EXPECT_EQ(state.live_count(), 4 + 2 + 6);
  EXPECT_EQ(state.last_event_at(), 12);
  EXPECT_EQ(state.CountSlots(0, 0, {5, 12}), 4);
  EXPECT_EQ(state.CountSlots(0, 1, {0, 9}), 4);
  std::vector<int32_t> slots = {-1};
  state.AppendSlots(0, 0, {3, 11}, slots);
  EXPECT_THAT(slots, ElementsAre(-1, 3, 5, 8, 10));
}

TEST(ContextStateTest, AnEventMayEatCompactAndRawTogether) {
  ContextState state = Written();
  ASSERT_TRUE(state.Apply(MakeEvict(16, {2, 12}, MakeKept(kShape, {{2, 8}, {10, 11}}))).ok());
  EXPECT_THAT(Ranges(state), ElementsAre(Range{0, 2}, Range{2, 12}, Range{12, 16}));
  EXPECT_EQ(state.live_count(), 2 + 2 + 4);
}

TEST(ContextStateTest, AWindowMayEatEverything) {
  ContextState state = Written();
  Event event = MakeEvict(16, {0, 16}, MakeKept(kShape, {{}, {}}));
  event.method = Method::kMarkovian;
  ASSERT_TRUE(state.Apply(event).ok());
  EXPECT_EQ(state.live_count(), 0);
  state.Append(2);
  EXPECT_THAT(Ranges(state), ElementsAre(Range{0, 16}, Range{16, 18}));
  EXPECT_EQ(state.live_count(), 2);
}

TEST(ContextStateTest, OnlyTheInsideOfACompactBlockIsInside) {
  const ContextState state = Written();
  for (int32_t p = -1; p < 18; ++p) EXPECT_EQ(state.InsideCompact(p), p > 4 && p < 10) << p;
}

TEST(ContextStateTest, WhatTheLogDoesNotAllowIsRefusedByName) {
  const ContextState written = Written();
  const auto refused = [&](Event event, const char* field) {
    ContextState state = written;
    const absl::Status status = state.Apply(event);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), StartsWith(field));
    EXPECT_EQ(Ranges(state), Ranges(written)) << "a refusal changes nothing";
  };
  const auto none = MakeKept(kShape, {{}, {}});
  refused(MakeEvict(15, {0, 4}, none), "at=15");
  refused(MakeEvict(17, {0, 4}, none), "at=17");
  refused(MakeEvict(16, {4, 4}, none), "window=");
  refused(MakeEvict(16, {6, 2}, none), "window=");
  refused(MakeEvict(16, {-1, 4}, none), "window=");
  refused(MakeEvict(16, {std::numeric_limits<int32_t>::min(), 4}, none), "window=");
  refused(MakeEvict(16, {4, 17}, none), "window.end=17");
  refused(MakeEvict(16, {5, 12}, none), "window.begin=5");
  refused(MakeEvict(16, {2, 9}, none), "window.end=9");
  refused(MakeEvict(16, {0, 4}, MakeKept({2, 1}, {{}, {}})), "kept");
  refused(MakeEvict(16, {0, 4}, MakeKept(kShape, {{}})), "kept");
  refused(MakeEvict(16, {0, 4}, MakeKept(kShape, {{}, {}, {}})), "kept");
  refused(MakeEvict(16, {0, 4}, MakeKept({-1, -2}, {{}, {}})), "kept");
  refused(MakeEvict(16, {0, 4}, KeptPositions()), "kept");
  refused(MakeEvict(16, {0, 4}, MakeKept(kShape, {{2, 1}, {}})), "kept of layer 0, KV head 0");
  refused(MakeEvict(16, {0, 4}, MakeKept(kShape, {{}, {1, 1}})), "kept of layer 0, KV head 1");
  refused(MakeEvict(16, {0, 4}, MakeKept(kShape, {{4}, {}})), "kept of layer 0, KV head 0");
  refused(MakeEvict(16, {4, 10}, MakeKept(kShape, {{9}, {}})), "kept of layer 0, KV head 0");
  refused(MakeEvict(16, {4, 10}, MakeKept(kShape, {{}, {-4}})), "kept of layer 0, KV head 1");
  Event markovian = MakeEvict(16, {0, 4}, MakeKept(kShape, {{}, {1}}));
  markovian.method = Method::kMarkovian;
  refused(markovian, "kept of layer 0, KV head 1");
  Event matching = MakeEvict(16, {0, 4}, MakeKept(kShape, {{1}, {}}));
  matching.method = Method::kAttentionMatching;
  refused(matching, "kept of layer 0, KV head 1");
}

TEST(ContextStateTest, ASecondEventAtTheSamePlaceIsRefused) {
  ContextState state = Written();
  const auto none = MakeKept(kShape, {{}, {}});
  ASSERT_TRUE(state.Apply(MakeEvict(16, {10, 12}, none)).ok());
  EXPECT_THAT(std::string(state.Apply(MakeEvict(16, {12, 14}, none)).message()),
              StartsWith("at=16"));
}

}  // namespace
}  // namespace palimpsest::context
