#include "common/rl/objective.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>

#include "common/base/random.h"
#include "tests/unit/common/rl/objective_reference.h"

namespace palimpsest::rl {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Owner of an input.
struct Tokens {
  std::vector<double> now, recorded, advantages, weights;
  std::vector<int64_t> sequences;
  std::vector<double> entropies = {}, reference = {};

  ObjectiveInput View() const {
    return {now, recorded, advantages, weights, sequences, entropies, reference};
  }
  // Sequence s alone.
  Tokens Part(size_t s) const {
    const auto cut = [&](const std::vector<double>& all) {
      if (all.empty()) return all;
      return std::vector<double>(all.begin() + sequences[s], all.begin() + sequences[s + 1]);
    };
    return {cut(now),
            cut(recorded),
            cut(advantages),
            cut(weights),
            {0, sequences[s + 1] - sequences[s]},
            cut(entropies),
            cut(reference)};
  }
};

// Ratios between 1/8 and 8, advantages of both signs, one per sequence.
Tokens RandomTokens(uint64_t seed) {
  RandomStream random(seed);
  Tokens tokens;
  tokens.sequences = {0};
  for (int s = 0; s < 12; ++s) {
    const int length = 1 + static_cast<int>(random.Below(6));
    const double advantage = random.Normal(), spread = 4 * random.Uniform();
    for (int t = 0; t < length; ++t) {
      tokens.recorded.push_back(-3 * random.Uniform() - 0.5);
      tokens.now.push_back(
          std::min(tokens.recorded.back() + spread * (random.Uniform() - 0.4), -1e-3));
      tokens.advantages.push_back(advantage);
      tokens.weights.push_back(0.1 + random.Uniform() / length);
      tokens.entropies.push_back(random.Uniform());
      tokens.reference.push_back(tokens.now.back() + random.Normal());
    }
    tokens.sequences.push_back(tokens.sequences.back() + length);
  }
  return tokens;
}

// One token of ratio r, by default under PPO's clip of 0.2 and 0.3 and a cap of 2.
constexpr ObjectiveOptions kClipped = {.surrogate = {.clip_low = 0.2, .clip_high = 0.3},
                                       .correction = {.upper = 2}};
ObjectiveResult One(double ratio, double advantage, const ObjectiveOptions& options = kClipped,
                    double weight = 1, double recorded = -1) {
  const Tokens token = {{std::log(ratio) + recorded}, {recorded}, {advantage}, {weight}, {0, 1}};
  return Objective(options, token.View());
}

TEST(ObjectiveTest, OnPolicyTokensPushWithTheirAdvantage) {
  for (const SurrogateKind kind :
       {SurrogateKind::kClipped, SurrogateKind::kGspo, SurrogateKind::kIpo, SurrogateKind::kDppo}) {
    const ObjectiveResult r = One(1, 0.7, {.surrogate = {.kind = kind}}, 0.5);
    EXPECT_DOUBLE_EQ(r.loss, -0.35);
    EXPECT_DOUBLE_EQ(r.of_logprobs[0], -0.35);
  }
  const ObjectiveResult r = One(1, 0.7, {.surrogate = {.kind = SurrogateKind::kCispo}}, 0.5);
  EXPECT_DOUBLE_EQ(r.loss, 0.35);  // -0.5 * 0.7 * n, n = -1
  EXPECT_DOUBLE_EQ(r.of_logprobs[0], -0.35);
}

TEST(ObjectiveTest, ATokenThatMovedFarEnoughPushesNoFurther) {
  EXPECT_EQ(One(1.4, 1).of_logprobs[0], 0);  // good and already likelier
  EXPECT_NEAR(One(1.4, 1).loss, -1.3, 1e-15);
  EXPECT_EQ(One(0.7, -1).of_logprobs[0], 0);  // bad and already less likely
  EXPECT_NEAR(One(0.7, -1).loss, 0.8, 1e-15);
  EXPECT_EQ(One(0.7, -1).sums.clipped, 1);
  EXPECT_NEAR(One(0.7, 1).of_logprobs[0], -0.7, 1e-15);  // good but less likely: still wanted
  EXPECT_NEAR(One(1.4, -1).of_logprobs[0], 1.4, 1e-15);
}

TEST(ObjectiveTest, TheRatioOfABadTokenIsCutAtTheCapAndItsGradientStays) {
  const ObjectiveResult r = One(50, -1);
  EXPECT_DOUBLE_EQ(r.loss, 2);
  EXPECT_DOUBLE_EQ(r.of_logprobs[0], 2);
  EXPECT_EQ(r.sums.truncated, 1);
  EXPECT_EQ(r.sums.clipped, 0);
  ObjectiveOptions uncapped = kClipped;
  uncapped.correction = {.kind = CorrectionKind::kNone};
  EXPECT_NEAR(One(50, -1, uncapped).loss, 50, 1e-12);
}

TEST(ObjectiveTest, GspoClipsBySequencesAndSharesTheGradientAmongTheirTokens) {
  // Ratios 2 and 1/2 are 1 together: nothing is clipped. 2 and 2 are 2: clipped for A > 0.
  const double up = std::log(2);
  const ObjectiveOptions gspo = {.surrogate = {.kind = SurrogateKind::kGspo}};
  Tokens pair = {{up - 1, -up - 1}, {-1, -1}, {3, 3}, {0.25, 0.25}, {0, 2}};
  const ObjectiveResult even = Objective(gspo, pair.View());
  EXPECT_NEAR(even.loss, -1.5, 1e-15);
  EXPECT_NEAR(even.of_logprobs[0], -0.75, 1e-15);
  EXPECT_NEAR(even.of_logprobs[1], -0.75, 1e-15);
  pair.now[1] = up - 1;
  const ObjectiveResult likelier = Objective(gspo, pair.View());
  EXPECT_NEAR(likelier.loss, -1.5 * 1.2, 1e-15);
  EXPECT_THAT(likelier.of_logprobs, Each(0));
  EXPECT_EQ(likelier.sums.clipped, 2);
  EXPECT_NEAR(Objective({}, pair.View()).of_logprobs[0], 0, 1e-15) << "tokens are clipped alike";
}

TEST(ObjectiveTest, CispoHoldsTheWeightAndNeverTheGradient) {
  const ObjectiveOptions cispo = {.surrogate = {.kind = SurrogateKind::kCispo, .clip_high = 0.3}};
  EXPECT_NEAR(One(4, 1, cispo).of_logprobs[0], -1.3, 1e-15);
  EXPECT_NEAR(One(4, 1, cispo).loss, -1.3 * (std::log(4) - 1), 1e-15);
  EXPECT_NEAR(One(0.1, -1, cispo).of_logprobs[0], 0.8, 1e-15);
  EXPECT_EQ(One(0.1, -1, cispo).sums.clipped, 1);
}

TEST(ObjectiveTest, IpoDropsMovesOfProbabilityAndDppoOnlyThoseThatWereAskedFor) {
  const ObjectiveOptions ipo = {.surrogate = {.kind = SurrogateKind::kIpo}},
                         dppo = {.surrogate = {.kind = SurrogateKind::kDppo}};
  const double recorded = std::log(0.5);
  const auto up = [&](double advantage, const ObjectiveOptions& o) {
    return One(1.5, advantage, o, 1, recorded).of_logprobs[0];  // 0.5 -> 0.75
  };
  EXPECT_EQ(up(1, ipo), 0);
  EXPECT_EQ(up(-1, ipo), 0);
  EXPECT_EQ(up(1, dppo), 0);
  EXPECT_NEAR(up(-1, dppo), 1.5, 1e-15);
  EXPECT_NEAR(One(0.5, 1, dppo, 1, recorded).of_logprobs[0], -0.5, 1e-15);  // 0.5 -> 0.25
  EXPECT_EQ(One(0.5, -1, dppo, 1, recorded).of_logprobs[0], 0);
  // The same ratio of an unlikely token moves hardly any probability.
  EXPECT_NEAR(One(1.5, 1, ipo, 1, std::log(0.01)).of_logprobs[0], -1.5, 1e-14);
}

TEST(ObjectiveTest, MasksLeaveOutWhatTheyNameAndNothingElse) {
  // Ratios (1, 3), (1, 1), (3, 3).
  const double far = std::log(3) - 1;
  const Tokens t = {{-1, far, -1, -1, far, far},
                    std::vector<double>(6, -1),
                    std::vector<double>(6, -1.0),
                    std::vector<double>(6, 1.0),
                    {0, 2, 4, 6}};
  const auto gradient = [&](CorrectionKind kind, double upper) {
    return Objective({.correction = {.kind = kind, .lower = 0.5, .upper = upper}}, t.View())
        .of_logprobs;
  };
  const auto near = [](double x) { return ::testing::DoubleNear(x, 1e-14); };
  using ::testing::ElementsAre;
  EXPECT_THAT(gradient(CorrectionKind::kIcePop, 2), ElementsAre(near(1), 0, 1, 1, 0, 0));
  EXPECT_THAT(gradient(CorrectionKind::kSequenceMask, 2), ElementsAre(0, 0, 1, 1, 0, 0));
  EXPECT_THAT(gradient(CorrectionKind::kGeometricMask, 2), ElementsAre(1, near(3), 1, 1, 0, 0));
  EXPECT_EQ(Objective({.correction = {.kind = CorrectionKind::kIcePop, .upper = 2}}, t.View())
                .sums.masked,
            3);
}

// Ratios (1, 3), (1, 5e-5): what the sampler alone found likely takes its whole response along, and
// what the learner finds likelier is cut.
TEST(ObjectiveTest, SparseRlRejectsResponsesWithAnAbsurdTokenAndCutsTheOthersWeights) {
  const Tokens t = {{-1, std::log(3) - 1, -1, std::log(5e-5) - 1},
                    std::vector<double>(4, -1),
                    std::vector<double>(4, 1.0),
                    std::vector<double>(4, 1.0),
                    {0, 2, 4}};
  ObjectiveOptions o = {.surrogate = {SurrogateKind::kCispo, 1, 0.5},
                        .correction = {CorrectionKind::kSparseRl, 1e-4, 1.5}};
  ASSERT_TRUE(Validate(o).ok()) << Validate(o);
  EXPECT_THAT(Objective(o, t.View()).of_logprobs, ::testing::ElementsAre(-1, -1.5, 0, 0));
  EXPECT_EQ(Objective(o, t.View()).sums.masked, 2);
  EXPECT_EQ(Objective(o, t.View()).sums.truncated, 1);
  o.correction.lower = 1e-5;
  EXPECT_EQ(Objective(o, t.View()).sums.masked, 0);
}

TEST(ObjectiveTest, TheTermsBesideTheSurrogateAreTheirEquations) {
  // A = 0, so nothing but the terms. n = -1, o = -1.5, reference = -2, w = 0.5.
  const Tokens t = {{-1}, {-1.5}, {0}, {0.5}, {0, 1}, {0.7}, {-2}};
  const auto kl = [&](KlEstimator estimator) {
    return Objective({.reference_kl = {estimator, 2}}, t.View());
  };
  EXPECT_DOUBLE_EQ(kl(KlEstimator::kK1).loss, 1);
  EXPECT_DOUBLE_EQ(kl(KlEstimator::kK1).of_logprobs[0], 1);
  EXPECT_DOUBLE_EQ(kl(KlEstimator::kK2).loss, 0.5);
  EXPECT_DOUBLE_EQ(kl(KlEstimator::kK2).of_logprobs[0], 1);
  EXPECT_NEAR(kl(KlEstimator::kK3).loss, std::exp(-1), 1e-15);
  EXPECT_NEAR(kl(KlEstimator::kK3).of_logprobs[0], 1 - std::exp(-1), 1e-15);
  EXPECT_DOUBLE_EQ(kl(KlEstimator::kK1).sums.reference_kl, 1);
  EXPECT_DOUBLE_EQ(Objective({.drift = 4}, t.View()).loss, 0.5);
  EXPECT_DOUBLE_EQ(Objective({.drift = 4}, t.View()).of_logprobs[0], 2);
  const ObjectiveResult bonus = Objective({.entropy = 2}, t.View());
  EXPECT_DOUBLE_EQ(bonus.loss, -0.7);
  EXPECT_DOUBLE_EQ(bonus.of_entropies[0], -1);
  EXPECT_THAT(Objective({}, t.View()).of_entropies, IsEmpty());
}

std::vector<ObjectiveOptions> AllMethods() {
  std::vector<ObjectiveOptions> methods;
  for (int surrogate = 0; surrogate < 5; ++surrogate) {
    for (int correction = 0; correction < 6; ++correction) {
      for (int estimator = 0; estimator < 3; ++estimator) {
        ObjectiveOptions o;
        o.surrogate = {static_cast<SurrogateKind>(surrogate), 0.15, 0.25};
        o.correction.kind = static_cast<CorrectionKind>(correction);
        if (correction >= 1) o.correction.upper = 1.6;
        if (correction >= 2) o.correction.lower = 0.6;
        o.reference_kl = {static_cast<KlEstimator>(estimator), 0.3};
        o.drift = estimator * 0.1;
        o.entropy = estimator * 0.2;
        if (Validate(o).ok()) methods.push_back(o);
      }
    }
  }
  return methods;
}

constexpr uint64_t kSeeds[] = {1, 2, 3, 4, 5, 6};  // together they meet every bound

// The gradient against central differences of the slow equations, and the values.
double WorstError(const ObjectiveOptions& options, const Tokens& tokens,
                  Mistake mistake = Mistake::kNone) {
  const ObjectiveResult r = Objective(options, tokens.View());
  const SlowObjective slow(options, tokens.View(), mistake);
  double worst = std::abs(r.loss - slow.Loss(tokens.now, tokens.entropies));
  constexpr double kStep = 1e-6;
  for (size_t i = 0; i < tokens.now.size(); ++i) {
    const auto slope = [&](std::vector<double> Tokens::*field) {
      Tokens up = tokens, down = tokens;
      (up.*field)[i] += kStep;
      (down.*field)[i] -= kStep;
      return (slow.Loss(up.now, up.entropies) - slow.Loss(down.now, down.entropies)) / (2 * kStep);
    };
    worst = std::max(worst, std::abs(r.of_logprobs[i] - slope(&Tokens::now)));
    const double of_entropy = r.of_entropies.empty() ? 0 : r.of_entropies[i];
    worst = std::max(worst, std::abs(of_entropy - slope(&Tokens::entropies)));
  }
  return worst;
}

TEST(ObjectiveTest, EveryMethodHasTheValueAndTheDerivativeOfItsEquations) {
  const std::vector<ObjectiveOptions> methods = AllMethods();
  EXPECT_EQ(methods.size(), 87u);  // gspo has no icepop
  for (size_t i = 0; i < methods.size(); ++i) {
    for (const uint64_t seed : kSeeds) {
      EXPECT_LT(WorstError(methods[i], RandomTokens(seed)), 1e-7) << i;
    }
  }
}

TEST(ObjectiveTest, AnObjectiveWithAMistakeWouldBeSeen) {
  const auto of = [](SurrogateKind surrogate, CorrectionKind correction) {
    ObjectiveOptions o = {.surrogate = {.kind = surrogate},
                          .correction = {.kind = correction, .upper = 1.6}};
    return o;
  };
  const std::pair<ObjectiveOptions, Mistake> mistakes[] = {
      {of(SurrogateKind::kClipped, CorrectionKind::kTis), Mistake::kCapIgnored},
      {of(SurrogateKind::kClipped, CorrectionKind::kIcePop), Mistake::kMaskIgnored},
      {of(SurrogateKind::kClipped, CorrectionKind::kSequenceMask), Mistake::kMaskIgnored},
      {of(SurrogateKind::kClipped, CorrectionKind::kGeometricMask), Mistake::kMaskIgnored},
      {{.correction = {CorrectionKind::kSparseRl, 0.6, 1.6}}, Mistake::kMaskIgnored},
      {{.correction = {CorrectionKind::kSparseRl, 0.6, 1.6}}, Mistake::kCapIgnored},
      {of(SurrogateKind::kGspo, CorrectionKind::kNone), Mistake::kSequenceRatioOfTokens},
      {of(SurrogateKind::kCispo, CorrectionKind::kTis), Mistake::kWeightMoves},
      {of(SurrogateKind::kDppo, CorrectionKind::kTis), Mistake::kSignIgnored}};
  for (const auto& [options, mistake] : mistakes) {
    double worst = 0;
    for (const uint64_t seed : kSeeds) {
      worst = std::max(worst, WorstError(options, RandomTokens(seed), mistake));
    }
    EXPECT_GT(worst, 1e-2) << static_cast<int>(mistake);
  }
}

TEST(ObjectiveTest, MicroBatchesAddUpToTheBatch) {
  const Tokens tokens = RandomTokens(5);
  for (const ObjectiveOptions& method : AllMethods()) {
    const ObjectiveResult whole = Objective(method, tokens.View());
    double loss = 0;
    ObjectiveSums sums;
    std::vector<double> gradient;
    for (size_t s = 0; s + 1 < tokens.sequences.size(); ++s) {
      const ObjectiveResult part = Objective(method, tokens.Part(s).View());
      loss += part.loss;
      sums.Add(part.sums);
      gradient.insert(gradient.end(), part.of_logprobs.begin(), part.of_logprobs.end());
    }
    EXPECT_EQ(gradient, whole.of_logprobs);
    EXPECT_NEAR(loss, whole.loss, 1e-12);
    EXPECT_NEAR(sums.EffectiveShare(), whole.sums.EffectiveShare(), 1e-14);
    EXPECT_NEAR(sums.reference_kl, whole.sums.reference_kl, 1e-12);
    EXPECT_EQ(sums.clipped, whole.sums.clipped);
    EXPECT_EQ(sums.masked, whole.sums.masked);
    EXPECT_EQ(sums.truncated, whole.sums.truncated);
  }
}

TEST(ObjectiveTest, TheEffectiveShareIsOneOnPolicyAndFallsWithOneHeavyToken) {
  ObjectiveSums sums{.tokens = 4, .ratio = 4, .squared_ratio = 4};
  EXPECT_EQ(sums.EffectiveShare(), 1);
  sums.Add({.tokens = 1, .ratio = 100, .squared_ratio = 1e4});
  EXPECT_LT(sums.EffectiveShare(), 0.25);
}

TEST(ObjectiveTest, WhatCannotWorkIsRefusedByItsField) {
  EXPECT_TRUE(Validate(ObjectiveOptions{}).ok());
  const std::pair<ObjectiveOptions, const char*> wrong[] = {
      {{.correction = {.upper = 1.1}}, "correction.upper=1.1 is less than 1 + clip_high=0.2"},
      {{.correction = {.upper = 1}}, "correction.upper=1 is not > 1"},
      {{.correction = {.lower = 0.5}}, "correction.lower=0.5"},
      {{.correction = {.kind = CorrectionKind::kNone, .upper = 3}}, "correction.upper=3"},
      {{.surrogate = {.clip_low = std::nan("")}}, "clip_low=nan"},
      {{.surrogate = {.clip_high = -1}}, "clip_high=-1"},
      {{.surrogate = {.kind = SurrogateKind::kGspo}, .correction = {CorrectionKind::kIcePop}},
       "icepop"},
      {{.aggregation = {.divisor = 5}}, "aggregation.divisor=5"},
      {{.aggregation = {.kind = Aggregation::kConstant}}, "aggregation.divisor=0"},
      {{.aggregation = {.kind = Aggregation::kLengthWeighted, .power = 2}}, "aggregation.power=2"},
      {{.reference_kl = {.coefficient = -1}}, "reference_kl.coefficient=-1"},
      {{.drift = -1}, "drift=-1"},
      {{.entropy = INFINITY}, "entropy=inf"}};
  for (const auto& [options, message] : wrong) {
    EXPECT_THAT(std::string(Validate(options).message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace palimpsest::rl
