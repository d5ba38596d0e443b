#include <ATen/ATen.h>
#include <c10/core/GradMode.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_format.h"
#include "services/trainer/engine/loss.h"
#include "services/trainer/engine/reference.h"
#include "services/trainer/engine/sequences.h"
#include "tests/unit/common/rl/objective_reference.h"
#include "tests/unit/services/trainer/engine/engine_testing.h"
#include "tests/unit/services/trainer/engine/slopes.h"

// Every method through the model: rollouts with events, from options to moved weights.
namespace palimpsest::trainer {
namespace {

struct Method {
  const char* name;
  rl::ObjectiveOptions options;
};

std::vector<Method> Methods() {
  using rl::Aggregation, rl::CorrectionKind, rl::KlEstimator, rl::SurrogateKind;
  return {
      {"default", {}},
      {"GRPO",
       {.correction = {.kind = CorrectionKind::kNone},
        .aggregation = {.kind = Aggregation::kSequenceMean},
        .reference_kl = {KlEstimator::kK3, 0.04}}},
      {"Dr.GRPO", {.aggregation = {.kind = Aggregation::kConstant, .divisor = 40}}},
      {"DAPO", {.surrogate = {.clip_low = 0.2, .clip_high = 0.28}}},
      {"GSPO",
       {.surrogate = {SurrogateKind::kGspo, 0.05, 0.05},
        .correction = {CorrectionKind::kSequenceMask, 0.5, 3},
        .aggregation = {.kind = Aggregation::kSequenceMean}}},
      {"CISPO",
       {.surrogate = {SurrogateKind::kCispo, 1, 0.3},
        .correction = {.kind = CorrectionKind::kNone},
        .entropy = 0.05}},
      {"IPO",
       {.surrogate = {.kind = SurrogateKind::kIpo},
        .correction = {CorrectionKind::kGeometricMask, 0.1, 10},
        .drift = 0.1}},
      {"DPPO",
       {.surrogate = {.kind = SurrogateKind::kDppo},
        .correction = {CorrectionKind::kIcePop, 0.8, 1.2},
        .reference_kl = {KlEstimator::kK2, 0.1},
        .entropy = 0.02}},
      {"by length",
       {.aggregation = {.kind = Aggregation::kLengthWeighted, .power = 0.5},
        .reference_kl = {KlEstimator::kK1, 0.1}}},
  };
}

// Rollouts of other weights than `decoder`'s: ratios between 2/3 and 3/2, advantages of both signs,
// one temperature that differs, responses of different length.
Batch OffPolicyBatch(const model::Decoder& decoder) {
  Batch batch = RlBatch(decoder, 1, Budget());
  for (size_t i = 0; i < batch.rl.size(); ++i) {
    RlItem& item = batch.rl[i];
    item.advantage = i % 2 == 0 ? 1 + 0.1 * static_cast<double>(i) : -0.8;
    rl::Rollout& rollout = item.rollout;
    if (i == 4) rollout.temperature = 0.9;
    for (size_t t = kPrompt; t < rollout.tokens.size(); ++t) {
      if (t % (i + 5) == 4) {  // fewer tokens that are learnt
        rollout.origins[t] = rl::Origin::kInjected;
        rollout.logprobs[t] = 0;
        continue;
      }
      const double moved = 0.4 * std::sin(1.7 * static_cast<double>(t) + static_cast<double>(i));
      rollout.logprobs[t] =
          std::min<float>(-1e-3f, rollout.logprobs[t] + static_cast<float>(moved));
    }
  }
  return batch;
}

std::vector<LossSequence> SequencesOf(const rl::ObjectiveOptions& options, const Batch& batch) {
  std::vector<LossSequence> sequences;
  for (const RlItem& item : batch.rl) sequences.push_back(SequenceOf(item));
  WeighTokens(options.aggregation, sequences);
  return sequences;
}

using ObjectivesTest = EngineTest;

TEST_F(ObjectivesTest, TheGradientOfEveryMethodIsTheSlopeOfItsLossOverTheWeights) {
  const auto decoder = WideModel(Options(), 3), other = WideModel(Options(), 4);
  const Batch batch = OffPolicyBatch(*decoder);
  for (const Method& method : Methods()) {
    ASSERT_TRUE(Validate(method.options).ok()) << method.name;
    const std::vector<LossSequence> sequences = SequencesOf(method.options, batch);
    const auto reference = ReplayLogProbs(*other, kReplay, Pointers(sequences));
    ASSERT_TRUE(reference.ok()) << reference.status();

    // The tokens as they are now: constants of the gradient are taken there.
    std::vector<double> now, recorded, advantages, weights, entropies;
    std::vector<int64_t> offsets;
    rl::ObjectiveSums sums;
    const LossFunction loss = [&](const PassTokens& pass) {
      now.assign(pass.logprobs.begin(), pass.logprobs.end());
      entropies.assign(pass.entropies.begin(), pass.entropies.end());
      offsets.assign(pass.sequences.begin(), pass.sequences.end());
      for (const TokenOutcome& t : pass.tokens) {
        recorded.push_back(t.token->recorded);
        advantages.push_back(t.token->advantage);
        weights.push_back(t.token->weight);
      }
      return PolicyLoss(method.options, pass, *reference, sums);
    };
    const auto pass = RunPass(*decoder, kReplay, Pointers(sequences), loss, SystemClock());
    ASSERT_TRUE(pass.ok()) << pass.status();
    const std::vector<at::Tensor> gradient = TakeGradients(*decoder);
    const rl::SlowObjective slow(
        method.options, {now, recorded, advantages, weights, offsets, entropies, *reference});
    EXPECT_NEAR(pass->sums.loss, slow.Loss(now, entropies), 1e-12) << method.name;

    const std::vector<at::Tensor> direction = DirectionOf(gradient);
    const auto value = [&](double by) {
      Move(*decoder, direction, by);
      double moved = NAN;
      const LossFunction look = [&](const PassTokens& p) {
        moved = slow.Loss({p.logprobs.begin(), p.logprobs.end()},
                          {p.entropies.begin(), p.entropies.end()});
        return LossValue{.of_logprobs = std::vector<double>(p.tokens.size(), 0.0)};
      };
      EXPECT_TRUE(RunPass(*decoder, kReplay, Pointers(sequences), look, SystemClock()).ok());
      TakeGradients(*decoder);
      Move(*decoder, direction, -by);
      return moved;
    };
    constexpr double kStep = 1e-5;
    const double slope = (value(kStep) - value(-kStep)) / (2 * kStep);
    const double promised = Dot(gradient, direction);
    EXPECT_NEAR(promised / slope, 1, 1e-5) << method.name;
  }
}

TEST_F(ObjectivesTest, EveryMethodMovesTheWeightsOfTheEngineDownItsSlopeHoweverTheBatchIsCut) {
  int run = 0;
  for (const Method& method : Methods()) {
    EngineOptions whole = Options(absl::StrFormat("run%d", ++run));
    whole.loss = method.options;
    whole.gradient = kReplay.gradient;
    whole.schedule.learning_rate = 1e-4;
    whole.optimizer.weight_decay = 0;
    EngineOptions cut = whole;
    cut.run.folder += "-cut";
    cut.max_tokens_per_micro_batch = 80;
    const auto a = Open(whole), b = Open(cut);
    ASSERT_TRUE(a->Publish().ok() && b->Publish().ok());
    const Batch batch = OffPolicyBatch(a->decoder());

    const std::vector<LossSequence> sequences = SequencesOf(method.options, batch);
    std::vector<double> reference;  // the weights are the first ones still
    if (method.options.reference_kl.coefficient > 0) {
      reference = *ReplayLogProbs(a->decoder(), kReplay, Pointers(sequences));
    }
    rl::ObjectiveSums sums;
    const auto pass = RunPass(
        a->decoder(), kReplay, Pointers(sequences),
        [&](const PassTokens& p) { return PolicyLoss(method.options, p, reference, sums); },
        SystemClock());
    ASSERT_TRUE(pass.ok()) << pass.status();
    const std::vector<at::Tensor> gradient = TakeGradients(a->decoder()), before = Weights(*a);

    const StepResult x = Trained(*a, batch), y = Trained(*b, batch);
    EXPECT_THAT(x.rejected, ::testing::IsEmpty());
    EXPECT_FALSE(x.skipped);
    EXPECT_NEAR(x.loss, pass->sums.loss, 1e-5 * (1 + std::abs(x.loss))) << method.name;
    EXPECT_NEAR(x.grad_norm / std::sqrt(Dot(gradient, gradient)), 1, 1e-4) << method.name;
    EXPECT_EQ(y.tokens, x.tokens);  // a cut group's prompt, too, is there once
    EXPECT_NEAR(x.loss, y.loss, 1e-5 * (1 + std::abs(x.loss))) << method.name;
    EXPECT_NEAR(x.grad_norm / y.grad_norm, 1, 1e-4) << method.name;
    EXPECT_EQ(x.ratio->masked_share, y.ratio->masked_share);

    std::vector<at::Tensor> moved = Weights(*a);
    for (size_t i = 0; i < moved.size(); ++i) moved[i].sub_(before[i]);
    EXPECT_LT(Dot(gradient, moved), 0) << method.name;
  }
}

TEST_F(ObjectivesTest, AgainstItsOwnWeightsTheKlIsZeroAndGrowsWhenTheyMove) {
  EngineOptions options = Options();
  options.loss.reference_kl.coefficient = 0.5;
  options.schedule.learning_rate = 1e-2;
  const auto engine = Open(options);
  ASSERT_TRUE(engine->Publish().ok());
  const StepResult first = Trained(*engine, OffPolicyBatch(engine->decoder()));
  ASSERT_TRUE(first.reference_kl.has_value());
  EXPECT_LE(std::abs(*first.reference_kl), 1e-6);
  EXPECT_EQ(first.phases.at(2).first, "reference");
  EXPECT_GT(first.phases.at(2).second, 0);
  Batch again = OffPolicyBatch(engine->decoder());
  again.step = 2;
  EXPECT_GT(*Trained(*engine, again).reference_kl, 1e-3);

  // A version of the store can be one: that of the moved weights is 0 again.
  const auto version = engine->Publish();
  ASSERT_TRUE(version.ok()) << version.status();
  options.reference_folder = options.run.StoreFolder() + "/v00000002";
  const auto reference = LoadReference(options, engine->decoder().config());
  ASSERT_TRUE(reference.ok()) << reference.status();
  EXPECT_TRUE(at::equal((*reference)->HeadWeight(), engine->decoder().HeadWeight().detach()));
}

TEST_F(ObjectivesTest, AReferenceOfAnotherShapeIsRefused) {
  EngineOptions options = Options();
  model::ModelConfig trained = (*MakeModel(options.model, 1, options.dtype)).decoder->config();
  trained.layers += 1;
  const absl::Status refused = LoadReference(options, trained).status();
  EXPECT_TRUE(absl::IsFailedPrecondition(refused));
  EXPECT_THAT(std::string(refused.message()), ::testing::HasSubstr("layers=2"));
}

}  // namespace
}  // namespace palimpsest::trainer
