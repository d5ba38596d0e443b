#include "common/attention/replay.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

#include "common/base/random.h"
#include "tests/unit/common/attention/dense_reference.h"
#include "tests/unit/common/attention/random_logs.h"

namespace palimpsest::attention {
namespace {

using compaction::GradientMode;
using context::Method;
using testing::kKvHeads;
using testing::kLayers;
using testing::kToyHeads;
using testing::kToyShape;
using testing::kToyWidth;
using testing::kVocab;
using testing::MakeBatch;
using testing::RandomBatch;
using testing::ReferenceOptions;
using testing::ToyModel;

struct Answer {
  at::Tensor logprobs;                // all sequences one after another
  std::vector<at::Tensor> gradients;  // of a random weighting of them
};

Answer Finish(const ToyModel& model, const at::Tensor& logprobs) {
  at::Tensor weights = at::empty_like(logprobs);
  for (int64_t i = 0; i < weights.numel(); ++i)
    weights.data_ptr<double>()[i] = Uniform01(99, 0, i) - 0.3;
  return {.logprobs = logprobs.detach(),
          .gradients = torch::autograd::grad({(logprobs * weights).sum()}, model.parameters)};
}

Answer Replay(const ToyModel& model, const std::vector<ReplaySequence>& sequences,
              GradientMode mode, bool share = true, int shift = 0) {
  const auto batch = PackedBatch::Create(sequences, kToyShape, share);
  EXPECT_TRUE(batch.ok()) << batch.status();
  ReplayContext context(*batch,
                        {.gradient = mode, .scale = 1 / std::sqrt(static_cast<double>(kToyWidth))});
  std::vector<int64_t> positions = batch->positions(), rows, targets;
  for (int64_t& p : positions) p += p > 12 ? shift : 0;
  const at::Tensor x = model.Forward(batch->ids(), positions, context);
  for (size_t i = 0; i < sequences.size(); ++i) {
    for (int32_t p = 0; p < sequences[i].rows; ++p) {
      rows.push_back(batch->RowOf(static_cast<int>(i), p));
      targets.push_back(sequences[i].tokens[p + 1]);
    }
  }
  return Finish(model, model.LogProbs(x, rows, targets));
}

Answer Reference(const ToyModel& model, const std::vector<ReplaySequence>& sequences,
                 const ReferenceOptions& options) {
  std::vector<at::Tensor> parts;
  for (const ReplaySequence& s : sequences) parts.push_back(ReferenceLogProbs(model, s, options));
  return Finish(model, at::cat(parts));
}

double Relative(const std::vector<at::Tensor>& a, const std::vector<at::Tensor>& b) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    difference += (a[i] - b[i]).square().sum().item<double>();
    norm += b[i].square().sum().item<double>();
  }
  return std::sqrt(difference / norm);
}

double MaxAbs(const at::Tensor& a, const at::Tensor& b) {
  return (a - b).abs().max().item<double>();
}

class ReplayGradientTest : public ::testing::TestWithParam<GradientMode> {};

TEST_P(ReplayGradientTest, EqualsTheDenseReferenceOverRandomLogs) {
  double worst = 0, worst_logprob = 0;
  int events = 0;
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const RandomBatch batch = MakeBatch(seed);
    for (const ReplaySequence& s : batch.sequences) events += static_cast<int>(s.events.size());
    const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, seed, 2.0);
    const Answer fast = Replay(model, batch.sequences, GetParam());
    const Answer slow = Reference(model, batch.sequences, {.gradient = GetParam()});
    worst_logprob = std::max(worst_logprob, MaxAbs(fast.logprobs, slow.logprobs));
    worst = std::max(worst, Relative(fast.gradients, slow.gradients));
  }
  EXPECT_GT(events, 40);
  RecordProperty("max_abs_logprob", std::to_string(worst_logprob));
  std::printf("events %d, log-probability max abs %.2e, gradient relative %.2e\n", events,
              worst_logprob, worst);
  EXPECT_LT(worst_logprob, 1e-7);
  EXPECT_LT(worst, 1e-6);
}

INSTANTIATE_TEST_SUITE_P(Modes, ReplayGradientTest,
                         ::testing::Values(GradientMode::kFull, GradientMode::kStraightThrough,
                                           GradientMode::kDetached));

TEST(ReplayTest, SharedPromptEqualsReplicatedPrompts) {
  for (uint64_t seed = 21; seed <= 26; ++seed) {
    const RandomBatch batch = MakeBatch(seed);
    const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, seed);
    const Answer shared = Replay(model, batch.sequences, GradientMode::kFull, true);
    const Answer replicated = Replay(model, batch.sequences, GradientMode::kFull, false);
    EXPECT_LT(MaxAbs(shared.logprobs, replicated.logprobs), 1e-9);
    EXPECT_LT(Relative(shared.gradients, replicated.gradients), 1e-8);
  }
}

TEST(ReplayTest, SharingKeepsOneCopyOfAPrompt) {
  std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8};
  std::vector<ReplaySequence> sequences(3, {.tokens = tokens, .prompt_tokens = 5, .rows = 7});
  EXPECT_EQ(PackedBatch::Create(sequences, kToyShape)->rows(), 5 + 3 * 2);
  EXPECT_EQ(PackedBatch::Create(sequences, kToyShape, false)->rows(), 3 * 7);
}

// The same ids, but another event inside of the prompt: its rows are not the same any more.
TEST(ReplayTest, APromptThatWasCompactedOtherwiseIsNotShared) {
  const auto with = [](std::vector<int32_t> kept) {
    context::Event e{.at = 5, .window = {1, 4}, .method = Method::kEvict};
    e.kept = context::KeptPositions(kToyShape);
    for (int i = 0; i < kLayers * kKvHeads; ++i) e.kept.AddHead(kept);
    return std::vector<ReplayEvent>{{.event = e}};
  };
  const std::vector<int32_t> tokens = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10};
  std::vector<ReplaySequence> sequences(3, {.tokens = tokens, .prompt_tokens = 7, .rows = 9});
  sequences[0].events = with({1});
  sequences[1].events = with({2});
  sequences[2].events = with({1});
  EXPECT_EQ(PackedBatch::Create(sequences, kToyShape)->rows(), 2 * 7 + 3 * 2);
  const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, 27, 2.0);
  const Answer fast = Replay(model, sequences, GradientMode::kFull);
  EXPECT_LT(MaxAbs(fast.logprobs, Reference(model, sequences, {}).logprobs), 1e-9);
  sequences[1].events = sequences[0].events;  // what sharing all the same would have given
  EXPECT_GT(MaxAbs(fast.logprobs, Replay(model, sequences, GradientMode::kFull).logprobs), 1e-4);
}

TEST(ReplayTest, WithoutEventsItIsPlainCausalAttention) {
  const RandomBatch batch = MakeBatch(31, 0.0);
  const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, 31);
  const Answer fast = Replay(model, batch.sequences, GradientMode::kFull);
  const Answer slow = Reference(model, batch.sequences, {});
  EXPECT_LT(MaxAbs(fast.logprobs, slow.logprobs), 1e-12);
  EXPECT_LT(Relative(fast.gradients, slow.gradients), 1e-11);
}

TEST(ReplayTest, AnEvictEventThatKeepsAllSlotsChangesNothing) {
  const RandomBatch batch = MakeBatch(41, 0.0);
  std::vector<ReplaySequence> evicted = batch.sequences;
  for (ReplaySequence& s : evicted) {
    if (s.rows < 6) continue;
    context::Event e{.at = s.rows - 1, .window = {1, s.rows - 2}, .method = Method::kEvict};
    e.kept = context::KeptPositions(kToyShape);
    std::vector<int32_t> all;
    for (int32_t p = 1; p < s.rows - 2; ++p) all.push_back(p);
    for (int i = 0; i < kLayers * kKvHeads; ++i) e.kept.AddHead(all);
    s.events = {{.event = e}};
  }
  const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, 41);
  const Answer with = Replay(model, evicted, GradientMode::kFull),
               without = Replay(model, batch.sequences, GradientMode::kFull);
  EXPECT_LT(MaxAbs(with.logprobs, without.logprobs), 1e-12);
}

// Negative controls: each of the known mistakes must be seen by the comparison above.
TEST(ReplayNegativeControlTest, PositionsShiftedByOneAreSeen) {
  const RandomBatch batch = MakeBatch(3);
  const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, 3, 2.0);
  EXPECT_GT(MaxAbs(Replay(model, batch.sequences, GradientMode::kFull, true, 1).logprobs,
                   Reference(model, batch.sequences, {}).logprobs),
            1e-3);
}

TEST(ReplayNegativeControlTest, MassAppliedTwiceIsSeen) {
  const RandomBatch batch = MakeBatch(3);
  const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, 3, 2.0);
  EXPECT_GT(MaxAbs(Replay(model, batch.sequences, GradientMode::kFull).logprobs,
                   Reference(model, batch.sequences, {.mass_twice = true}).logprobs),
            1e-3);
}

TEST(ReplayNegativeControlTest, OneLayersRecordUsedForAllIsSeen) {
  // One event over raw slots, so that layer 0's positions exist in layer 1 too.
  std::vector<int32_t> tokens;
  for (int i = 0; i < 20; ++i) tokens.push_back((i * 7) % kVocab);
  context::Event e{.at = 12, .window = {2, 10}, .reference = {4, 12}};
  e.kept = context::KeptPositions(kToyShape);
  for (int l = 0; l < kLayers; ++l) {
    for (int h = 0; h < kKvHeads; ++h)
      e.kept.AddHead(l == 0 ? std::vector<int32_t>{2, 3} : std::vector<int32_t>{8, 9});
  }
  const std::vector<ReplaySequence> s = {
      {.tokens = tokens, .prompt_tokens = 2, .rows = 19, .events = {{.event = e}}}};
  const ToyModel model(kLayers, kToyHeads, kKvHeads, kToyWidth, kVocab, 5, 2.0);
  const Answer fast = Replay(model, s, GradientMode::kFull);
  EXPECT_LT(MaxAbs(fast.logprobs, Reference(model, s, {}).logprobs), 1e-8);
  EXPECT_GT(MaxAbs(fast.logprobs, Reference(model, s, {.record_layer_for_all = 0}).logprobs), 1e-4);
}

TEST(PackedBatchTest, ALogThatDoesNotFitIsRefusedByName) {
  std::vector<int32_t> tokens(10, 1);
  context::Event e{.at = 5, .window = {2, 7}, .method = Method::kMarkovian};
  e.kept = context::KeptPositions(kToyShape);
  for (int i = 0; i < kLayers * kKvHeads; ++i) e.kept.AddHead({});
  const std::vector<ReplaySequence> s = {
      {.tokens = tokens, .prompt_tokens = 2, .rows = 9, .events = {{.event = e}}}};
  const auto batch = PackedBatch::Create(s, kToyShape);
  ASSERT_FALSE(batch.ok());
  EXPECT_NE(batch.status().message().find("sequences[0].events[0]"), std::string::npos)
      << batch.status();
  EXPECT_NE(batch.status().message().find("window"), std::string::npos) << batch.status();
}

}  // namespace
}  // namespace palimpsest::attention
