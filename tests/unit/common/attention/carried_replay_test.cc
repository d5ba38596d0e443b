// Events that choose while they are replayed, by what slots bring along from earlier events.
#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/attention/draft_events.h"
#include "common/attention/replay.h"

namespace palimpsest::attention::carried_replay {
namespace {

using context::Chooser;
using context::Method;

constexpr context::Shape kShape = {.layers = 2, .kv_heads = 2};
constexpr int32_t kPrompt = 6, kRows = 60;
constexpr int64_t kGroup = 2, kWidth = 8;

using Logs = std::vector<std::vector<context::Event>>;

context::ContextPolicy Policy(Method method, Chooser chooser) {
  context::ContextPolicy policy{
      .trigger = context::KvBudget{.budget = 24, .window = 12, .keep_ratio = 0.4},
      .method = method,
      .reference_tokens = 10};
  policy.parameters.chooser = chooser;
  return policy;
}

// Sequence i of random rows, the same in whatever company it is; its first `shared` rows are those
// of all. Queries follow the rows' positions, so that what is listened to changes.
at::Tensor Rows(int layer, int sequence, int what, int64_t heads, int32_t shared) {
  at::manual_seed(100 * layer + what);
  const at::Tensor common = at::randn({kRows, heads, kWidth});
  at::manual_seed(100 * layer + what + 10 * (sequence + 1));
  const at::Tensor own = at::randn({kRows, heads, kWidth});
  return at::cat({common.slice(0, 0, shared), own.slice(0, shared)});
}

// What is kept, of each sequence.
Logs Replay(const std::vector<std::vector<ReplayEvent>>& events, int32_t shared = 0,
            bool share = false) {
  std::vector<std::vector<int32_t>> tokens;
  std::vector<ReplaySequence> sequences;
  for (size_t i = 0; i < events.size(); ++i) {
    tokens.emplace_back(kRows + 1);
    for (int32_t p = 0; p <= kRows; ++p) tokens[i][p] = p < shared ? p : p + 100 * (i + 1);
  }
  for (size_t i = 0; i < events.size(); ++i) {
    sequences.push_back({.tokens = tokens[i],
                         .prompt_tokens = shared > 0 ? shared : kPrompt,
                         .rows = kRows,
                         .events = events[i]});
  }
  auto batch = PackedBatch::Create(sequences, kShape, share);
  EXPECT_TRUE(batch.ok()) << batch.status();
  ReplayContext context(*batch, {.gradient = compaction::GradientMode::kDetached,
                                 .scale = 1 / std::sqrt(double{kWidth})});
  for (int layer = 0; layer < kShape.layers; ++layer) {
    at::Tensor qkv[3];
    for (int what = 0; what < 3; ++what) {
      const int64_t heads = what == 0 ? kShape.kv_heads * kGroup : kShape.kv_heads;
      qkv[what] = at::empty({batch->rows(), heads, kWidth});
      for (size_t i = 0; i < events.size(); ++i) {
        const at::Tensor rows = Rows(layer, static_cast<int>(i), what, heads, shared);
        for (int32_t p = 0; p < kRows; ++p)
          qkv[what][batch->RowOf(static_cast<int>(i), p)] = rows[p];
      }
    }
    context.Attend(layer, 1.5 * qkv[0], qkv[1], qkv[2]);
  }
  const Logs nodes = context.TakeEvents();
  Logs logs;
  for (size_t i = 0; i < events.size(); ++i) {
    const int own = batch->response_node(static_cast<int>(i)), parent = batch->nodes()[own].parent;
    logs.push_back(parent >= 0 ? nodes[parent] : std::vector<context::Event>());
    logs.back().insert(logs.back().end(), nodes[own].begin(), nodes[own].end());
  }
  return logs;
}

std::vector<ReplayEvent> Drafted(const context::ContextPolicy& policy) {
  auto events = DraftEvents(policy, kShape, kPrompt, kRows);
  EXPECT_TRUE(events.ok()) << events.status();
  EXPECT_GT(events->size(), 4u);
  return *std::move(events);
}

std::vector<context::KeptPositions> KeptOf(const std::vector<context::Event>& log) {
  std::vector<context::KeptPositions> kept;
  for (const context::Event& e : log) kept.push_back(e.kept);
  return kept;
}

class CarriedReplayTest : public ::testing::TestWithParam<std::pair<Method, Chooser>> {};

TEST_P(CarriedReplayTest, ChoicesHangOnTheLogNotOnWhoMadeIt) {
  const auto [method, chooser] = GetParam();
  const std::vector<ReplayEvent> drafted = Drafted(Policy(method, chooser));
  const auto chosen = KeptOf(Replay({drafted})[0]);
  int otherwise = 0;
  for (size_t cut = 1; cut < drafted.size(); ++cut) {
    std::vector<ReplayEvent> forced = drafted, forgotten;
    for (size_t i = 0; i < cut; ++i) forced[i].event.kept = chosen[i];
    EXPECT_TRUE(KeptOf(Replay({forced})[0]) == chosen) << cut;
    // The control: the same positions forced by events that carry nothing.
    forgotten = forced;
    for (size_t i = 0; i < cut; ++i)
      forgotten[i].event.parameters.chooser = context::DefaultChooser(method);
    otherwise += KeptOf(Replay({forgotten})[0]) != chosen;
  }
  EXPECT_GT(otherwise, 0);
}

TEST_P(CarriedReplayTest, ChoicesAreTheSameInAnyCompany) {
  const auto [method, chooser] = GetParam();
  std::vector<std::vector<ReplayEvent>> side_by_side = {Drafted(Policy(method, chooser))};
  const auto alone = KeptOf(Replay(side_by_side)[0]);
  side_by_side.push_back(Drafted(Policy(Method::kEvict, Chooser::kRecent)));
  side_by_side.push_back(Drafted(Policy(Method::kAttentionMatching, Chooser::kAccumulated)));
  side_by_side.push_back(Drafted(Policy(method, chooser)));
  const Logs logs = Replay(side_by_side);
  EXPECT_TRUE(KeptOf(logs[0]) == alone);
  EXPECT_FALSE(KeptOf(logs[3]) == alone);  // other rows
}

// Events in the prompt, too: what its slots have received there goes with each response.
TEST_P(CarriedReplayTest, AResponseCarriesOnWhatItsSharedPromptHasReceived) {
  const auto [method, chooser] = GetParam();
  context::ContextPolicy policy = Policy(method, chooser);
  policy.protect = 2;
  const std::vector<ReplayEvent> drafted = Drafted(policy);
  constexpr int32_t kShared = 28;
  EXPECT_LT(drafted.front().event.at, kShared);
  const Logs together = Replay({drafted, drafted}, kShared, true);
  const Logs apart = Replay({drafted, drafted}, kShared, false);
  for (size_t i = 0; i < 2; ++i) EXPECT_TRUE(KeptOf(together[i]) == KeptOf(apart[i])) << i;
  EXPECT_FALSE(KeptOf(together[0]) == KeptOf(together[1]));
}

INSTANTIATE_TEST_SUITE_P(
    Choosers, CarriedReplayTest,
    ::testing::Values(std::pair{Method::kAttentionMatching, Chooser::kAccumulated},
                      std::pair{Method::kAttentionMatching, Chooser::kCarriedMax},
                      std::pair{Method::kAttentionMatching, Chooser::kDiverse},
                      std::pair{Method::kEvict, Chooser::kAccumulated},
                      std::pair{Method::kEvict, Chooser::kCarriedMax},
                      std::pair{Method::kEvict, Chooser::kDiverse}));

}  // namespace
}  // namespace palimpsest::attention::carried_replay
