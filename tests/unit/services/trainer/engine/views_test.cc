#include "common/rl/views.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_format.h"
#include "common/model/causal.h"
#include "common/model/divergence_torch.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/peak_memory.h"
#include "services/trainer/engine/sequences.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"
#include "tests/unit/services/trainer/engine/slopes.h"

// Rollouts with events seen twice: passes over both views, and steps of the engine with them.
namespace palimpsest::trainer {
namespace {

using rl::Distillation;
using rl::View;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

constexpr Distillation kKinds[] = {Distillation::kD1, Distillation::kD2, Distillation::kD3};

std::string NameOf(View learner, Distillation kind) {
  return absl::StrFormat("learner%d-d%d", static_cast<int>(learner), static_cast<int>(kind));
}

// Views the tokens of the batch.
std::vector<LossSequence> SequencesOf(Batch&&) = delete;
std::vector<LossSequence> SequencesOf(const Batch& batch) {
  std::vector<LossSequence> sequences;
  for (const RlItem& item : batch.rl) sequences.push_back(SequenceOf(item));
  WeighTokens({}, sequences);
  return sequences;
}

// ----- The slow way: one sequence after the other, all of the vocabulary at once.

// log p [tokens, V] of each loss token's distribution; the dense view by plain causal attention.
at::Tensor LogProbs(const model::Decoder& decoder, const LossSequence& sequence, View view) {
  const auto batch = attention::PackedBatch::Create({&sequence.replay, 1}, kShape, false);
  EXPECT_TRUE(batch.ok()) << batch.status();
  const at::Tensor ids = at::tensor(batch->ids(), at::kLong);
  const at::Tensor positions = at::tensor(batch->positions(), at::kLong);
  attention::ReplayContext replay(*batch, kReplay);
  model::CausalContext causal({batch->rows()});
  const at::Tensor hidden = view == View::kShadow ? decoder.Hidden(ids, positions, replay)
                                                  : decoder.Hidden(ids, positions, causal);
  std::vector<int64_t> rows;
  for (const LossToken& token : sequence.tokens)
    rows.push_back(batch->RowOf(0, token.position - 1));
  return (decoder.Logits(hidden.index_select(0, at::tensor(rows, at::kLong))) /
          sequence.temperature)
      .log_softmax(-1);
}

// Stands for a policy loss: what pushes token `t` of sequence `s` if it is linear.
double Push(size_t s, size_t t) { return std::cos(1.3 * static_cast<double>(t + 50 * s)); }

class SlowLoss {
 public:
  SlowLoss(const model::Decoder& decoder, const std::vector<LossSequence>& sequences,
           const PassViews& views)
      : decoder_(decoder), sequences_(sequences), views_(views) {
    const c10::NoGradGuard no_grad;
    for (const LossSequence& sequence : sequences) {
      frozen_[0].push_back(LogProbs(decoder, sequence, View::kShadow));
      frozen_[1].push_back(LogProbs(decoder, sequence, View::kDense));
    }
  }

  // Of the weights as they are now, the view that is followed as it was. The control lets it move.
  double Value(bool followed_moves = false) const {
    const c10::NoGradGuard no_grad;
    double loss = 0;
    for (size_t s = 0; s < sequences_.size(); ++s) {
      at::Tensor logp[2];
      for (const View view : {View::kShadow, View::kDense}) {
        const auto side = static_cast<size_t>(view);
        const bool moves =
            followed_moves || view == views_.learner || rl::Moves(views_.distillation, view);
        logp[side] = moves ? LogProbs(decoder_, sequences_[s], view) : frozen_[side][s];
      }
      loss += Pushed(s, logp[static_cast<size_t>(views_.learner)]);
      // The learner's view moves for its own part only, where it is the one that is followed.
      for (const View view : {View::kShadow, View::kDense}) {
        if (!followed_moves && !rl::Moves(views_.distillation, view)) {
          logp[static_cast<size_t>(view)] = frozen_[static_cast<size_t>(view)][s];
        }
      }
      loss += views_.coefficient * sequences_[s].tokens[0].weight * Kl(logp[0], logp[1]);
    }
    return loss;
  }

 private:
  double Pushed(size_t s, const at::Tensor& logp) const {
    double sum = 0;
    const auto& tokens = sequences_[s].tokens;
    for (size_t t = 0; t < tokens.size(); ++t) {
      const int32_t id = sequences_[s].replay.tokens[tokens[t].position];
      sum += Push(s, t) * logp[static_cast<int64_t>(t)][id].item<double>();
    }
    return sum;
  }
  double Kl(const at::Tensor& shadow, const at::Tensor& dense) const {
    const bool d1_or_d2 = views_.distillation != Distillation::kD3;  // KL(dense || shadow)
    const at::Tensor& p = d1_or_d2 ? dense : shadow;
    const at::Tensor& q = d1_or_d2 ? shadow : dense;
    return (p.exp() * (p - q)).sum().item<double>();
  }

  const model::Decoder& decoder_;
  const std::vector<LossSequence>& sequences_;
  PassViews views_;
  std::vector<at::Tensor> frozen_[2];  // by view, of each sequence
};

using ViewsTest = EngineTest;

TEST_F(ViewsTest, TheGradientOfEachDistillationIsTheSlopeOfItsLossAndTheFollowedViewIsConstant) {
  const auto decoder = WideModel(Options(), 3);
  const Batch batch = MixedBatch(*decoder);
  const std::vector<LossSequence> sequences = SequencesOf(batch);
  const LossFunction push = [&](const PassTokens& pass) {
    LossValue value;
    for (size_t i = 0; i < pass.tokens.size(); ++i) {
      const TokenOutcome& t = pass.tokens[i];
      value.of_logprobs.push_back(Push(static_cast<size_t>(t.sequence - sequences.data()),
                                       static_cast<size_t>(t.token - t.sequence->tokens.data())));
      value.loss += value.of_logprobs.back() * pass.logprobs[i];
    }
    return value;
  };
  for (const View learner : {View::kShadow, View::kDense}) {
    for (const Distillation kind : kKinds) {
      const PassViews views = {.learner = learner, .distillation = kind, .coefficient = 40};
      const SlowLoss slow(*decoder, sequences, views);
      const auto pass = RunPass(*decoder, kReplay, Pointers(sequences), push, SystemClock(), views);
      ASSERT_TRUE(pass.ok()) << pass.status();
      const std::vector<at::Tensor> gradient = TakeGradients(*decoder);
      EXPECT_NEAR(pass->sums.loss, slow.Value(), 1e-10) << NameOf(learner, kind);
      EXPECT_GT(pass->sums.distilled, 1e-3);

      const std::vector<at::Tensor> direction = DirectionOf(gradient);
      constexpr double kStep = 1e-5;
      const auto slope = [&](bool followed_moves) {
        Move(*decoder, direction, kStep);
        const double up = slow.Value(followed_moves);
        Move(*decoder, direction, -2 * kStep);
        const double down = slow.Value(followed_moves);
        Move(*decoder, direction, kStep);
        return (up - down) / (2 * kStep);
      };
      const double promised = Dot(gradient, direction);
      EXPECT_NEAR(promised / slope(false), 1, 1e-6) << NameOf(learner, kind);
      EXPECT_GT(std::abs(promised / slope(true) - 1), 1e-4) << NameOf(learner, kind);
    }
  }
}

TEST_F(ViewsTest, BeforeItsFirstEventARolloutHasOneView) {
  const auto decoder = WideModel(Options(), 3);
  const Batch batch = MixedBatch(*decoder);
  const std::vector<LossSequence> sequences = SequencesOf(batch);
  const auto pass =
      RunPass(*decoder, kReplay, Pointers(sequences), Likelihood, SystemClock(), {.compare = true});
  ASSERT_TRUE(pass.ok()) << pass.status();
  size_t apart = 0;
  std::vector<const LossToken*> order;  // by temperature, then as in the batch
  std::vector<const LossSequence*> owner;
  for (const double temperature : {0.8, 1.0}) {
    for (const LossSequence& sequence : sequences) {
      if (sequence.temperature != temperature) continue;
      for (const LossToken& token : sequence.tokens) {
        order.push_back(&token);
        owner.push_back(&sequence);
      }
    }
  }
  ASSERT_EQ(pass->gaps.size(), order.size());
  for (size_t i = 0; i < order.size(); ++i) {
    const rl::ViewGap& gap = pass->gaps[i];
    EXPECT_EQ(gap.place, order[i]->position - kPrompt);
    const auto& events = owner[i]->replay.events;
    if (events.empty() || events.front().event.at >= order[i]->position) {
      EXPECT_NEAR(gap.dense_shadow, 0, 1e-13);
      EXPECT_NEAR(gap.shadow_dense, 0, 1e-13);
      EXPECT_NEAR(gap.acceptance, 1, 1e-13);
    } else {
      EXPECT_GT(gap.dense_shadow, 0);
      EXPECT_GT(gap.shadow_dense, 0);
      EXPECT_LT(gap.acceptance, 1);
      ++apart;
    }
  }
  EXPECT_GT(apart, order.size() / 3);
}

TEST_F(ViewsTest, WithoutEventsDistillationChangesNothingAndTheViewsAreTheSameBits) {
  const auto decoder = WideModel(Options(), 3);
  const Batch batch = RlBatch(*decoder, 1, {});
  const std::vector<LossSequence> sequences = SequencesOf(batch);
  const auto gradient = [&](const PassViews& views) {
    const auto pass =
        RunPass(*decoder, kReplay, Pointers(sequences), Likelihood, SystemClock(), views);
    EXPECT_TRUE(pass.ok()) << pass.status();
    EXPECT_EQ(pass->sums.distilled, 0);
    return TakeGradients(*decoder);
  };
  const auto plain = gradient({});
  EXPECT_TRUE(BitEqual(gradient({.learner = View::kDense}), plain));
  for (const Distillation kind : kKinds) {
    EXPECT_TRUE(BitEqual(gradient({.distillation = kind, .coefficient = 1}), plain));
  }
}

// What a chunk needs is a few MB where all rows at once are 64 MB.
TEST_F(ViewsTest, TheVocabularyOfAllRowsNeverExistsAtOnce) {
  constexpr int64_t kTall = 2048, kWide = 8192, kAll = kTall * kWide * 4;
  const auto decoder = model::Decoder::Random({.layers = 1,
                                               .hidden = 8,
                                               .intermediate = 8,
                                               .heads = 1,
                                               .kv_heads = 1,
                                               .head_dim = 8,
                                               .vocab = kWide,
                                               .max_position = 8},
                                              1, model::DType::kFloat32);
  at::Tensor(decoder->HeadWeight()).requires_grad_(true);
  const at::Tensor rows = at::sin(at::arange(kTall * 8, at::kFloat)).view({kTall, 8});
  const auto peak = [&](int64_t chunk_rows) {
    const at::Tensor own = rows.clone().requires_grad_(true);
    ResetPeakMemory();
    const int64_t before = PeakMemory();
    model::CompareRows(*decoder, own, rows * 2, 1, chunk_rows).to_other.sum().backward();
    return PeakMemory() - before;
  };
  peak(64);  // what is allocated once
  [[maybe_unused]] const int64_t chunked = peak(64), whole = peak(kTall);
#ifndef __SANITIZE_ADDRESS__  // which keeps what was freed resident for a while
  EXPECT_LT(chunked, kAll / 2) << "of " << kAll;
#endif
  EXPECT_GT(whole, kAll) << "the control";
}

// ----- Steps of the engine.

EngineOptions With(EngineOptions options, View learner, Distillation kind) {
  options.shadow = {.learner = learner, .distillation = {kind, 0.5, 0}};
  if (kind == Distillation::kNone) options.shadow.distillation = {};
  options.schedule.learning_rate = 1e-4;
  return options;
}

TEST_F(ViewsTest, EveryWayOfLearningIsOneStepHoweverTheBatchIsCut) {
  for (const View learner : {View::kShadow, View::kDense}) {
    for (const Distillation kind :
         {Distillation::kNone, Distillation::kD1, Distillation::kD2, Distillation::kD3}) {
      const std::string name = NameOf(learner, kind);
      const EngineOptions whole = With(Options(name + "-whole"), learner, kind);
      EngineOptions cut = With(Options(name + "-cut"), learner, kind);
      cut.max_tokens_per_micro_batch = 80;
      const auto a = Open(whole), b = Open(cut);
      ASSERT_TRUE(a->Publish().ok() && b->Publish().ok());
      const Batch batch = MixedBatch(a->decoder());
      const StepResult x = Trained(*a, batch), y = Trained(*b, batch);
      EXPECT_THAT(x.rejected, IsEmpty());
      EXPECT_FALSE(x.skipped) << name;
      // The prompts of the two groups, which are cut, run once for both views.
      EXPECT_EQ(y.tokens, x.tokens - (kind == Distillation::kNone ? 0 : 2 * kPrompt)) << name;
      EXPECT_NEAR(x.loss, y.loss, 1e-5 * (1 + std::abs(x.loss))) << name;
      EXPECT_NEAR(x.grad_norm / y.grad_norm, 1, 1e-4) << name;
      EXPECT_EQ(x.views.has_value(), kind != Distillation::kNone) << name;
      if (!x.views) continue;
      EXPECT_EQ(x.views->tokens, x.loss_tokens);
      EXPECT_GT(x.distilled, 1e-4) << name;
      EXPECT_NEAR(x.distilled / y.distilled, 1, 1e-4) << name;
      EXPECT_NEAR(x.views->bins[0].acceptance_p5, y.views->bins[0].acceptance_p5, 1e-5) << name;
      EXPECT_NEAR(x.views->dense_shadow, y.views->dense_shadow, 1e-5) << name;
    }
  }
}

TEST_F(ViewsTest, DistillingBringsTheViewsTogether) {
  for (const Distillation kind : kKinds) {
    EngineOptions options = With(Options(NameOf(View::kShadow, kind)), View::kShadow, kind);
    options.schedule.learning_rate = 1e-3;
    const auto engine = Open(options);
    ASSERT_TRUE(engine->Publish().ok());
    double first = 0, last = 0;
    for (int64_t step = 1; step <= 12; ++step) {
      Batch batch = MixedBatch(engine->decoder(), step);
      for (RlItem& item : batch.rl) item.advantage = 0;  // nothing else pushes
      last = Trained(*engine, batch).distilled;
      if (step == 1) first = last;
    }
    EXPECT_LT(last, 0.7 * first) << NameOf(View::kShadow, kind);
  }
}

TEST_F(ViewsTest, TheDenseViewSeesOffPolicyTokensWhereTheShadowSeesItsOwn) {
  EngineOptions dense = With(Options("dense"), View::kDense, Distillation::kNone);
  dense.loss.surrogate = {rl::SurrogateKind::kCispo, 1, 0.5};
  dense.loss.correction = {rl::CorrectionKind::kSparseRl, 1e-4, 1.5};
  const auto learner = Open(dense), shadow = Open(Options("shadow"));
  ASSERT_TRUE(learner->Publish().ok() && shadow->Publish().ok());
  Batch batch = RlBatch(shadow->decoder(), 1, Evicting());
  const StepResult own = Trained(*shadow, batch), other = Trained(*learner, batch);
  EXPECT_NEAR(own.ratio->effective_sample_size, 1, 1e-5);
  EXPECT_LT(other.ratio->effective_sample_size, 0.999);
  EXPECT_GT(other.mismatch.back().max_abs, 1e-2);
  EXPECT_EQ(other.ratio->masked_share, 0);
  // One token that was sampled for certain and is one of 257 for who sees all takes its response
  // along.
  dense.run.folder += "-strict";
  dense.loss.correction.lower = 0.05;
  const auto strict = Open(dense);
  ASSERT_TRUE(strict->Publish().ok());
  batch.rl[2].rollout.logprobs[20] = -1e-6f;
  EXPECT_NEAR(Trained(*strict, batch).ratio->masked_share, 1.0 / 6, 1e-9);
}

TEST_F(ViewsTest, TheWarmUpCountsStepsOfRolloutsAndIsRemembered) {
  EngineOptions options = With(Options(), View::kShadow, Distillation::kD2);
  options.shadow.distillation.warmup_steps = 3;
  options.schedule.learning_rate = 1e-12;  // the views stay where they are
  auto engine = Open(options);
  ASSERT_TRUE(engine->Publish().ok());
  Trained(*engine, SftBatch(1, Budget()));
  const double third = Trained(*engine, MixedBatch(engine->decoder(), 2)).distilled;
  ASSERT_TRUE(engine->Save().ok());
  engine = Open(options);
  EXPECT_NEAR(Trained(*engine, MixedBatch(engine->decoder(), 3)).distilled / third, 2, 1e-3);
  EXPECT_NEAR(Trained(*engine, MixedBatch(engine->decoder(), 4)).distilled / third, 3, 1e-3);
  EXPECT_NEAR(Trained(*engine, MixedBatch(engine->decoder(), 5)).distilled / third, 3, 1e-3);
}

TEST_F(ViewsTest, AGateThatStopsNamesItsBoundOutlivesTheProcessAndOpensWithTheBound) {
  EngineOptions options = Options();
  options.shadow.measure_every = 2;
  options.shadow.gates = {.kl_warn = 1e-9, .kl_stop = 1e-8};
  auto engine = Open(options);
  ASSERT_TRUE(engine->Publish().ok());
  EXPECT_FALSE(Trained(*engine, MixedBatch(engine->decoder(), 1)).views.has_value());
  EXPECT_TRUE(engine->Sound().ok());
  const StepResult measured = Trained(*engine, MixedBatch(engine->decoder(), 2));
  ASSERT_TRUE(measured.views.has_value());
  EXPECT_EQ(measured.distilled, 0);
  const absl::Status refused = engine->Train(MixedBatch(engine->decoder(), 3)).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("step 2: mean KL(dense || shadow)"));
  EXPECT_THAT(std::string(refused.message()), HasSubstr("gates.kl_stop=1e-08, of trainer.shadow"));
  ASSERT_TRUE(engine->Save().ok());

  engine = Open(options);
  EXPECT_TRUE(absl::IsFailedPrecondition(engine->Sound()));
  EXPECT_EQ(engine->Train(MixedBatch(engine->decoder(), 2))->result.views, measured.views);
  options.shadow.gates.kl_stop = 100;
  engine = Open(options);
  EXPECT_TRUE(engine->Sound().ok());
  EXPECT_FALSE(Trained(*engine, MixedBatch(engine->decoder(), 3)).skipped);
}

}  // namespace
}  // namespace palimpsest::trainer
