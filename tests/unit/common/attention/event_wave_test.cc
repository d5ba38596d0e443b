#include "common/attention/event_wave.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <numeric>

#include "common/attention/execute_torch.h"

namespace palimpsest::attention {
namespace {

constexpr int64_t kRows = 24, kHeads = 4, kGroup = 2, kWidth = 8;

context::Event EventOf(context::Method method, int32_t holdout_every) {
  context::Event event{.at = kRows, .window = {2, 14}, .method = method, .reference = {4, 20}};
  event.parameters.chooser = context::DefaultChooser(method);
  event.parameters.holdout_every = holdout_every;
  return event;
}

struct Outcome {
  std::vector<context::Quality> quality;
  std::vector<std::vector<std::vector<int32_t>>> chosen;  // [event][head][kept]
  std::vector<at::Tensor> k, v, bias;  // of each slice: [C', H', d], bias [C', H']
};

// The events side by side, each over a sequence of kRows raw tokens of its own; `slice` heads at a
// time.
Outcome Solve(const std::vector<context::Event>& events, bool measured, int slice = kHeads) {
  at::manual_seed(3);
  const auto total = static_cast<int64_t>(events.size()) * kRows;
  const at::Tensor k = at::randn({kRows, kHeads, kWidth}).repeat({total / kRows, 1, 1}),
                   v = at::randn({kRows, kHeads, kWidth}).repeat({total / kRows, 1, 1}),
                   q = at::randn({kRows, kHeads * kGroup, kWidth}).repeat({total / kRows, 1, 1});
  const KeySource source{.k = k,
                         .v = v,
                         .k_compact = k.slice(0, 0, 0),
                         .v_compact = v.slice(0, 0, 0),
                         .bias = at::zeros({0, kHeads})};
  Outcome out{.quality = std::vector<context::Quality>(events.size()),
              .chosen = std::vector<std::vector<std::vector<int32_t>>>(events.size())};
  std::vector<ReplayEvent> requests;
  for (const context::Event& event : events)
    requests.push_back({.event = event, .keep_ratio = 0.5});
  for (int first = 0; first < kHeads; first += slice) {
    const int many = std::min<int>(slice, kHeads - first);
    std::vector<std::vector<HeadSlots>> heads(events.size(), std::vector<HeadSlots>(many));
    std::vector<PendingEvent> pending;
    for (size_t i = 0; i < events.size(); ++i) {
      for (HeadSlots& head : heads[i]) {
        head.position.resize(kRows), head.slot.resize(kRows);
        std::iota(head.position.begin(), head.position.end(), 0);
        std::iota(head.slot.begin(), head.slot.end(), static_cast<int64_t>(i) * kRows);
      }
      pending.push_back({.request = &requests[i],
                         .heads = &heads[i],
                         .row_of = [i](int32_t p) { return static_cast<int64_t>(i) * kRows + p; },
                         .quality = measured ? &out.quality[i] : nullptr,
                         .chosen = &out.chosen[i]});
    }
    std::vector<at::Tensor> new_k, new_v, new_bias;
    EventWave(0, q, k, source, 0.35, compaction::GradientMode::kDetached, first)
        .Solve(pending, new_k, new_v, new_bias);
    if (new_k.empty()) continue;  // an eviction makes no slots
    out.k.push_back(at::cat(new_k)), out.v.push_back(at::cat(new_v));
    out.bias.push_back(at::cat(new_bias));
  }
  return out;
}

TEST(EventWaveTest, AnEvictionThatListensIsMeasuredAndWhatItKeepsStays) {
  const Outcome measured = Solve({EventOf(context::Method::kEvict, 0)}, true);
  EXPECT_GT(measured.quality[0].mass_error, 1e-3);
  EXPECT_GT(measured.quality[0].output_error, 1e-3);
  EXPECT_EQ(measured.quality[0].kkt_residual, 0);
  const Outcome fitted = Solve({EventOf(context::Method::kAttentionMatching, 0)}, true);
  EXPECT_EQ(measured.chosen, fitted.chosen);  // by the same importance
  EXPECT_LT(fitted.quality[0].mass_error, measured.quality[0].mass_error);
  EXPECT_LT(fitted.quality[0].output_error, measured.quality[0].output_error);
  EXPECT_EQ(Solve({EventOf(context::Method::kEvict, 0)}, false).chosen, measured.chosen);
}

// Slots, kept positions and what is measured: the same bits, whether heads are solved one by one,
// by twos, by threes (and the rest) or all together; by queries, by keys and by what is drawn per
// head.
TEST(EventWaveTest, AnEventHasTheSameBitsHoweverItsHeadsAreSliced) {
  std::vector<context::Event> kinds = {EventOf(context::Method::kAttentionMatching, 0),
                                       EventOf(context::Method::kAttentionMatching, 4),
                                       EventOf(context::Method::kAttentionMatching, 0),
                                       EventOf(context::Method::kAttentionMatching, 0),
                                       EventOf(context::Method::kEvict, 0),
                                       EventOf(context::Method::kEvict, 0)};
  kinds[2].parameters.reference_kind = context::ReferenceKind::kKeys;
  kinds[3].parameters.reference_kind = context::ReferenceKind::kRandom;
  kinds[5].parameters.chooser = context::Chooser::kRandom;
  kinds[5].reference = {};
  for (const context::Event& event : kinds) {
    const Outcome whole = Solve({event}, true);
    for (const int slice : {1, 2, 3}) {
      const Outcome sliced = Solve({event}, true, slice);
      EXPECT_EQ(sliced.chosen, whole.chosen);
      EXPECT_EQ(sliced.quality[0], whole.quality[0]);
      ASSERT_EQ(sliced.k.empty(), whole.k.empty());
      if (whole.k.empty()) continue;
      EXPECT_TRUE(at::equal(at::cat(sliced.k, 1), whole.k[0])) << slice;
      EXPECT_TRUE(at::equal(at::cat(sliced.v, 1), whole.v[0])) << slice;
      EXPECT_TRUE(at::equal(at::cat(sliced.bias, 1), whole.bias[0])) << slice;
    }
  }
}

TEST(EventWaveTest, AnEvictionThatDoesNotListenIsNotMeasured) {
  context::Event recent = EventOf(context::Method::kEvict, 0);
  recent.parameters.chooser = context::Chooser::kRecent;
  recent.reference = {};
  EXPECT_EQ(Solve({recent}, true).quality[0], context::Quality{});
}

TEST(EventWaveTest, OnlyAnEventThatHoldsQueriesOutReportsOnThem) {
  for (const auto method : {context::Method::kEvict, context::Method::kAttentionMatching}) {
    // 16 reference positions: every 17th is none.
    const Outcome out = Solve({EventOf(method, 4), EventOf(method, 0), EventOf(method, 17)}, true);
    const Outcome alone = Solve({EventOf(method, 0)}, true);
    ASSERT_TRUE(out.quality[0].holdout_mass_error && out.quality[0].holdout_output_error);
    EXPECT_GT(*out.quality[0].holdout_output_error, 1e-3);
    for (const size_t i : {1u, 2u}) {
      EXPECT_FALSE(out.quality[i].holdout_mass_error.has_value()) << i;
      EXPECT_FALSE(out.quality[i].holdout_output_error.has_value()) << i;
      EXPECT_NEAR(out.quality[i].mass_error, alone.quality[0].mass_error, 1e-6);
      EXPECT_NEAR(out.quality[i].output_error, alone.quality[0].output_error, 1e-6);
    }
  }
}

}  // namespace
}  // namespace palimpsest::attention
