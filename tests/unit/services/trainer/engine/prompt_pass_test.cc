#include <gtest/gtest.h>

#include <cstdio>

#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/prompt_pass_torch.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"
#include "tests/unit/services/trainer/engine/slopes.h"

// Responses in several passes behind one pass of their prompt, against all in one pass.
namespace palimpsest::trainer {
namespace {

constexpr int kLongPrompt = 14;

struct Gradients {
  std::vector<at::Tensor> tensors;
  PassSums sums;
};

// |a - b| / |b|
double Distance(const Gradients& a, const Gradients& b) {
  std::vector<at::Tensor> difference;
  for (size_t i = 0; i < b.tensors.size(); ++i) difference.push_back(a.tensors[i] - b.tensors[i]);
  return std::sqrt(Dot(difference, difference) / Dot(b.tensors, b.tensors));
}

class PromptPassTest : public EngineTest {
 protected:
  // Six responses to one prompt and one to another: with windows and references that reach into the
  // prompt, of each method, with queries and with keys, and without events; a loss token in the
  // prompt, too.
  PromptPassTest() {
    for (int i = 0; i < 7; ++i) {
      tokens_.push_back(RandomTokens(70 + i, i));
      if (i > 0 && i < 6) std::copy_n(tokens_[0].begin(), kLongPrompt, tokens_[i].begin());
    }
    for (int i = 0; i < 7; ++i) {
      LossSequence s{.item = i};
      s.replay = {.tokens = tokens_[i], .prompt_tokens = kLongPrompt, .rows = kTokens - 1 - i};
      if (i < 4 || i == 6) s.replay.events = EventsOf(i);
      for (int p = i == 2 ? 5 : kLongPrompt; p <= s.replay.rows; ++p)
        s.tokens.push_back({.position = p, .weight = 0.01 * (1 + i)});
      if (i == 3) s.temperature = 0.8;
      sequences_.push_back(std::move(s));
    }
  }

  static std::vector<attention::ReplayEvent> EventsOf(int i) {
    const context::Method second =
        i % 2 == 0 ? context::Method::kAttentionMatching : context::Method::kEvict;
    context::Event first{.at = 18, .window = {3, 12}, .reference = {9, 18}};
    first.parameters.reference_kind =
        i == 1 ? context::ReferenceKind::kKeys : context::ReferenceKind::kQueries;
    context::Event then{.at = 26, .window = {3, 20}, .method = second, .reference = {10, 26}};
    if (second == context::Method::kEvict) then.parameters.chooser = context::Chooser::kAttention;
    return {{.event = first, .keep_ratio = 0.5}, {.event = then, .keep_ratio = 0.4}};
  }

  // In one pass.
  Gradients Whole(const model::Decoder& decoder, const attention::ReplayOptions& options,
                  const PassViews& views) const {
    const auto pass =
        RunPass(decoder, options, Pointers(sequences_), Likelihood, SystemClock(), views);
    EXPECT_TRUE(pass.ok()) << pass.status();
    return {TakeGradients(decoder), pass->sums};
  }

  // In three; the other prompt rides along with the second. `forget`: what the responses found for
  // the rows of the prompt is dropped, of its layers or of its last rows.
  enum class Forget { kNothing, kOfLayers, kOfRows };
  Gradients InPieces(const model::Decoder& decoder, const attention::ReplayOptions& options,
                     const PassViews& views, Forget forget = Forget::kNothing) const {
    Gradients found;
    const auto all = Pointers(sequences_);
    const std::vector<std::vector<const LossSequence*>> pieces = {
        {all[0], all[3]}, {all[1], all[2], all[6]}, {all[4], all[5]}};
    const auto learn = [&](const PromptPass& prompt) -> absl::Status {
      for (const auto& piece : pieces) {
        ASSIGN_OR_RETURN(const PassResult pass, RunPass(decoder, options, piece, Likelihood,
                                                        SystemClock(), views, &prompt));
        found.sums.Add(pass.sums);
      }
      if (forget == Forget::kOfRows) prompt.hidden()->sums = {at::Tensor()};
      for (const auto& layer : prompt.held().layers) {
        EXPECT_TRUE(layer->sums[1].defined() && layer->sums[2].defined());
        if (forget == Forget::kOfLayers) layer->sums.assign(3, at::Tensor());
      }
      return absl::OkStatus();
    };
    const absl::Status learnt =
        LearnBehindPrompt(decoder, options, *all[0], SystemClock(), found.sums, learn);
    EXPECT_TRUE(learnt.ok()) << learnt;
    found.tensors = TakeGradients(decoder);
    return found;
  }

  std::vector<std::vector<int32_t>> tokens_;
  std::vector<LossSequence> sequences_;
};

constexpr compaction::GradientMode kPromptModes[] = {compaction::GradientMode::kFull,
                                                     compaction::GradientMode::kStraightThrough,
                                                     compaction::GradientMode::kDetached};

TEST_F(PromptPassTest, GradientsAreThoseOfOnePassInEveryModeWithActivationsKeptOrMadeAgain) {
  const auto decoder = WideModel(Options(), 3);
  for (const compaction::GradientMode mode : kPromptModes) {
    for (const auto activations : {model::Activations::kKept, model::Activations::kRecomputed}) {
      decoder->SetActivations(activations);
      const attention::ReplayOptions options{.gradient = mode, .scale = kReplay.scale};
      const Gradients whole = Whole(*decoder, options, {}), cut = InPieces(*decoder, options, {});
      EXPECT_LE(Distance(cut, whole), 1e-12);
      EXPECT_NEAR(cut.sums.loss, whole.sums.loss, 1e-12 * std::abs(whole.sums.loss));
      EXPECT_EQ(cut.sums.rows, whole.sums.rows) << "the prompt once";
      std::printf("fp64, mode %d: %.1e\n", static_cast<int>(mode), Distance(cut, whole));
      EXPECT_GT(Distance(InPieces(*decoder, options, {}, Forget::kOfLayers), whole), 1e-2);
      EXPECT_GT(Distance(InPieces(*decoder, options, {}, Forget::kOfRows), whole), 1e-2);
    }
  }
}

TEST_F(PromptPassTest, BothViewsLeaveWhatTheyFindWithOnePrompt) {
  const auto decoder = WideModel(Options(), 3);
  for (const rl::View learner : {rl::View::kShadow, rl::View::kDense}) {
    for (const auto kind : {rl::Distillation::kD1, rl::Distillation::kD2, rl::Distillation::kD3}) {
      const PassViews views{.learner = learner, .distillation = kind, .coefficient = 0.5};
      const Gradients whole = Whole(*decoder, kReplay, views),
                      cut = InPieces(*decoder, kReplay, views);
      EXPECT_LE(Distance(cut, whole), 1e-12);
      EXPECT_NEAR(cut.sums.distilled / whole.sums.distilled, 1, 1e-12);
      EXPECT_GT(whole.sums.distilled, 1e-6);
    }
  }
}

TEST_F(PromptPassTest, InSinglePrecisionTheyAreAFewUlpApartAndTheSameBitsKeptOrMadeAgain) {
  const SourceModel source = *MakeModel(Options().model, 3, model::DType::kFloat32);
  const model::Decoder& decoder = *source.decoder;
  for (auto [name, tensor] : decoder.Parameters()) tensor.requires_grad_(true);
  for (const compaction::GradientMode mode : kPromptModes) {
    const attention::ReplayOptions options{.gradient = mode, .scale = kReplay.scale};
    source.decoder->SetActivations(model::Activations::kKept);
    const Gradients whole = Whole(decoder, options, {}), cut = InPieces(decoder, options, {});
    std::printf("fp32, mode %d: %.1e\n", static_cast<int>(mode), Distance(cut, whole));
    EXPECT_LE(Distance(cut, whole), 2e-6);
    source.decoder->SetActivations(model::Activations::kRecomputed);
    EXPECT_TRUE(BitEqual(InPieces(decoder, options, {}).tensors, cut.tensors));
  }
}

TEST_F(PromptPassTest, LogProbabilitiesBehindAPromptAreThoseOfOnePass) {
  const auto decoder = WideModel(Options(), 3);
  const auto all = Pointers(sequences_);
  const c10::NoGradGuard no_grad;
  const auto prompt = PromptPass::Run(*decoder, kReplay, *all[0]);
  ASSERT_TRUE(prompt.ok()) << prompt.status();
  for (const rl::View view : {rl::View::kShadow, rl::View::kDense}) {
    const auto whole = ReplayLogProbs(*decoder, kReplay, all, view);
    const auto behind = ReplayLogProbs(*decoder, kReplay, all, view, prompt->get());
    ASSERT_TRUE(whole.ok() && behind.ok()) << whole.status() << behind.status();
    ASSERT_EQ(whole->size(), behind->size());
    for (size_t t = 0; t < whole->size(); ++t) EXPECT_NEAR((*behind)[t], (*whole)[t], 1e-12);
  }
}

}  // namespace
}  // namespace palimpsest::trainer
