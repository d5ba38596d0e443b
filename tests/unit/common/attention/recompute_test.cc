// The decoder under a ReplayContext, its activations kept for the backward pass or made again in
// it.
#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>
#include <memory>

#include "common/attention/draft_events.h"
#include "common/attention/replay.h"
#include "tests/unit/common/attention/random_logs.h"

namespace palimpsest::attention {
namespace {

using compaction::GradientMode;
using model::Activations;
using model::DType;
using testing::kLayers;
using testing::kToyShape;
using testing::MakeBatch;
using testing::RandomBatch;

std::unique_ptr<model::Decoder> Model(uint64_t seed, DType dtype, Activations activations) {
  auto decoder = model::Decoder::Random({.architecture = model::Architecture::kQwen3,
                                         .layers = kLayers,
                                         .hidden = 24,
                                         .intermediate = 40,
                                         .heads = testing::kToyHeads,
                                         .kv_heads = testing::kKvHeads,
                                         .head_dim = testing::kToyWidth,
                                         .vocab = testing::kVocab,
                                         .max_position = 64,
                                         .tied_embeddings = seed % 2 == 0},
                                        seed, dtype);
  decoder->SetActivations(activations);
  for (auto [name, tensor] : decoder->Parameters()) tensor.requires_grad_(true);
  return decoder;
}

ReplayOptions Options(GradientMode mode) {
  return {.gradient = mode, .scale = 1 / std::sqrt(static_cast<double>(testing::kToyWidth))};
}

PackedBatch Packed(const std::vector<ReplaySequence>& sequences) {
  auto batch = PackedBatch::Create(sequences, kToyShape);
  EXPECT_TRUE(batch.ok()) << batch.status();
  return *std::move(batch);
}

struct Pass {
  at::Tensor logprobs;                // of all tokens after all rows
  std::vector<at::Tensor> gradients;  // of a weighting of them
};

Pass Learn(const model::Decoder& decoder, const PackedBatch& batch,
           model::AttentionContext& context) {
  const at::Tensor hidden = decoder.Hidden(at::tensor(batch.ids(), at::kLong),
                                           at::tensor(batch.positions(), at::kLong), context);
  const at::Tensor logprobs = decoder.Logits(hidden).log_softmax(-1);
  const at::Tensor weights =
      at::sin(at::arange(logprobs.numel(), logprobs.options())).view_as(logprobs);
  std::vector<at::Tensor> parameters;
  for (const auto& [name, tensor] : decoder.Parameters()) parameters.push_back(tensor);
  return {.logprobs = logprobs.detach(),
          .gradients = torch::autograd::grad({(logprobs * weights).sum()}, parameters)};
}

Pass Learn(const model::Decoder& decoder, const PackedBatch& batch, GradientMode mode) {
  ReplayContext context(batch, Options(mode));
  return Learn(decoder, batch, context);
}

bool SameBits(const Pass& a, const Pass& b) {
  return at::equal(a.logprobs, b.logprobs) &&
         std::equal(a.gradients.begin(), a.gradients.end(), b.gradients.begin(), b.gradients.end(),
                    [](const at::Tensor& x, const at::Tensor& y) { return at::equal(x, y); });
}

// Passes layers on, the first time to one context and the second to another, and notes them.
class Twofold final : public model::AttentionContext {
 public:
  Twofold(model::AttentionContext& first, model::AttentionContext& second)
      : first_(first), second_(second) {}
  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override {
    asked.push_back(layer);
    return (asked.size() <= kLayers ? first_ : second_).Attend(layer, q, k, v);
  }
  std::vector<int> asked;

 private:
  model::AttentionContext &first_, &second_;
};

class RecomputedGradientTest : public ::testing::TestWithParam<GradientMode> {};

TEST_P(RecomputedGradientTest, GradientsOverRandomLogsAreTheSameBits) {
  size_t events = 0;
  for (uint64_t seed = 1; seed <= 8; ++seed) {
    const RandomBatch random = MakeBatch(seed);
    for (const ReplaySequence& s : random.sequences) events += s.events.size();
    const PackedBatch batch = Packed(random.sequences);
    for (const DType dtype : {DType::kFloat32, DType::kBFloat16}) {
      const auto kept = Model(seed, dtype, Activations::kKept),
                 again = Model(seed, dtype, Activations::kRecomputed);
      EXPECT_TRUE(SameBits(Learn(*again, batch, GetParam()), Learn(*kept, batch, GetParam())))
          << "seed " << seed << ", dtype " << static_cast<int>(dtype);
    }
  }
  EXPECT_GT(events, 25u);
}

INSTANTIATE_TEST_SUITE_P(Modes, RecomputedGradientTest,
                         ::testing::Values(GradientMode::kFull, GradientMode::kStraightThrough,
                                           GradientMode::kDetached));

TEST(RecomputeTest, EachLayerIsAskedOnceMoreTheLastOneFirst) {
  const PackedBatch batch = Packed(MakeBatch(3).sequences);
  const auto decoder = Model(3, DType::kFloat32, Activations::kRecomputed);
  ReplayContext context(batch, Options(GradientMode::kFull));
  Twofold noted(context, context);
  Learn(*decoder, batch, noted);
  EXPECT_EQ(noted.asked, (std::vector<int>{0, 1, 1, 0}));
}

// The control: gradients are those of what answers in the backward pass, so a context that
// answered otherwise there would be seen.
TEST(RecomputeTest, GradientsAreThoseOfWhatAnswersInTheBackwardPass) {
  const PackedBatch batch = Packed(MakeBatch(3).sequences);
  const auto kept = Model(3, DType::kFloat32, Activations::kKept),
             again = Model(3, DType::kFloat32, Activations::kRecomputed);
  ReplayContext full(batch, Options(GradientMode::kFull)),
      detached(batch, Options(GradientMode::kDetached));
  Twofold both(full, detached);
  const Pass pass = Learn(*again, batch, both);
  EXPECT_TRUE(SameBits(pass, Learn(*kept, batch, GradientMode::kDetached)));
  EXPECT_FALSE(SameBits(pass, Learn(*kept, batch, GradientMode::kFull)));
}

// Demonstrations: what is kept is chosen in the forward pass. It is chosen again from the same
// numbers and the same draws, and told once.
TEST(RecomputeTest, EventsThatChooseAreToldOnceAndGiveTheSameBits) {
  std::vector<std::vector<int32_t>> tokens(4);
  std::vector<ReplaySequence> sequences;
  for (size_t i = 0; i < tokens.size(); ++i) {
    for (int32_t p = 0; p < 44; ++p) {
      tokens[i].push_back((p * 5 + (p < 4 ? 0 : static_cast<int32_t>(i) * p)) % testing::kVocab);
    }
    context::ContextPolicy policy{
        .trigger = context::KvBudget{.budget = 16, .window = 8, .keep_ratio = 0.5},
        .reference_tokens = 12};
    if (i % 2 == 1) {
      policy.method = context::Method::kEvict;
      policy.parameters.chooser = i == 1 ? context::Chooser::kAttention : context::Chooser::kRandom;
    }
    const auto events = DraftEvents(policy, kToyShape, 4, 43);
    ASSERT_TRUE(events.ok()) << events.status();
    ASSERT_GT(events->size(), 3u);
    sequences.push_back({.tokens = tokens[i], .prompt_tokens = 4, .rows = 43, .events = *events});
  }
  const PackedBatch batch = Packed(sequences);
  const auto kept = Model(5, DType::kFloat32, Activations::kKept),
             again = Model(5, DType::kFloat32, Activations::kRecomputed);
  ReplayContext a(batch, Options(GradientMode::kFull)), b(batch, Options(GradientMode::kFull));
  const Pass pass = Learn(*kept, batch, a);
  EXPECT_TRUE(SameBits(Learn(*again, batch, b), pass));
  const auto told = b.TakeEvents();
  EXPECT_EQ(told, a.TakeEvents());
  for (const auto& events : told) {
    for (const context::Event& e : events) EXPECT_TRUE(e.kept.complete());
  }
}

}  // namespace
}  // namespace palimpsest::attention
