#include "common/rl/views.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "common/base/random.h"

namespace palimpsest::rl {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

TEST(DistillationTest, EachKindMovesTheViewThatItsEquationSays) {
  for (const View view : {View::kShadow, View::kDense}) {
    EXPECT_FALSE(Moves(Distillation::kNone, view));
    EXPECT_EQ(Moves(Distillation::kD1, view), view == View::kDense);
    EXPECT_EQ(Moves(Distillation::kD2, view), view == View::kShadow);
    EXPECT_EQ(Moves(Distillation::kD3, view), view == View::kDense);
    EXPECT_NE(view, Other(view));
  }
}

TEST(DistillationTest, TheCoefficientRisesToTheEndOfItsWarmUpAndStays) {
  const DistillationOptions o = {Distillation::kD2, 0.4, 4};
  EXPECT_DOUBLE_EQ(CoefficientAt(o, 1), 0.1);
  EXPECT_DOUBLE_EQ(CoefficientAt(o, 3), 0.3);
  EXPECT_EQ(CoefficientAt(o, 4), 0.4);
  EXPECT_EQ(CoefficientAt(o, 1000), 0.4);
  EXPECT_EQ(CoefficientAt({Distillation::kD2, 0.4, 0}, 1), 0.4);
}

// Against sorting: value k of n, from 1, is a percentile of share k / n.
TEST(ViewReportTest, PercentilesAndMeansAreThoseOfTheTokensInAnyOrder) {
  RandomStream random(3);
  std::vector<ViewGap> gaps;
  for (int i = 0; i < 500; ++i) {
    gaps.push_back({.place = i % 100,
                    .acceptance = random.Uniform(),
                    .dense_shadow = random.Uniform(),
                    .shadow_dense = 2 * random.Uniform()});
  }
  const ViewReport report = Report(gaps, 60);
  EXPECT_EQ(report.tokens, 500);
  ASSERT_THAT(report.bins, SizeIs(2));
  double acceptance = 0;
  std::vector<double> first, second, kl;
  for (const ViewGap& gap : gaps) {
    (gap.place < 60 ? first : second).push_back(gap.acceptance);
    kl.push_back(gap.shadow_dense);
    acceptance += gap.acceptance / 500;
  }
  for (auto* values : {&first, &second, &kl}) std::sort(values->begin(), values->end());
  EXPECT_EQ(report.bins[0], (ViewBin{0, 60, 300, first[14]}));
  EXPECT_EQ(report.bins[1], (ViewBin{60, 120, 200, second[9]}));
  EXPECT_EQ(report.shadow_dense_p99, kl[494]);
  EXPECT_NEAR(report.acceptance, acceptance, 1e-12);
  std::reverse(gaps.begin(), gaps.end());
  EXPECT_EQ(Report(gaps, 60).bins, report.bins);
}

TEST(ViewReportTest, LongResponsesEndInOneLastBin) {
  const std::vector<ViewGap> gaps = {{.place = 5}, {.place = 63}, {.place = 200000}};
  const ViewReport report = Report(gaps, 1);
  ASSERT_THAT(report.bins, SizeIs(2));
  EXPECT_EQ(report.bins[1], (ViewBin{63, std::numeric_limits<int32_t>::max(), 2, 1}));
}

TEST(ViewReportTest, WhatIsNotFiniteIsTheWorstThereIs) {
  const std::vector<ViewGap> gaps = {{.acceptance = NAN, .dense_shadow = NAN}, {}};
  const ViewReport report = Report(gaps, 8);
  EXPECT_EQ(report.bins[0].acceptance_p5, 0);
  EXPECT_EQ(report.dense_shadow, INFINITY);
  EXPECT_THAT(Judge({.acceptance_stop = 0.1, .kl_warn = 100, .least_tokens = 1}, report),
              SizeIs(2));
}

TEST(ViewGatesTest, EachBrokenBoundIsNamedWithItsValueAndTheWorseOneCounts) {
  const ViewReport report = {.tokens = 300,
                             .dense_shadow = 0.3,
                             .shadow_dense = 0.05,
                             .bins = {{0, 16, 100, 0.9}, {16, 32, 100, 0.7}, {32, 48, 3, 0.1}}};
  EXPECT_THAT(Judge({}, report), IsEmpty());
  ViewGates gates = {.acceptance_warn = 0.8, .kl_warn = 0.1};
  std::vector<Breach> breaches = Judge(gates, report);
  ASSERT_THAT(breaches, SizeIs(2));  // the bin of three tokens is not judged
  EXPECT_FALSE(breaches[0].stop || breaches[1].stop);
  EXPECT_THAT(breaches[0].what, HasSubstr("tokens from 16 on is 0.7: gates.acceptance_warn=0.8"));
  EXPECT_THAT(breaches[1].what, HasSubstr("KL(dense || shadow) of a token is 0.3"));
  EXPECT_THAT(breaches[1].what, HasSubstr("gates.kl_warn=0.1"));
  gates.acceptance_stop = 0.75;
  gates.kl_stop = 0.2;
  breaches = Judge(gates, report);
  ASSERT_THAT(breaches, SizeIs(2));
  EXPECT_TRUE(breaches[0].stop && breaches[1].stop);
  EXPECT_THAT(breaches[0].what, HasSubstr("gates.acceptance_stop=0.75"));
  gates.least_tokens = 3;
  EXPECT_THAT(Judge(gates, report), SizeIs(3));
}

TEST(ViewOptionsTest, WhatIsOutOfRangeOrWithoutEffectIsRefusedByItsField) {
  EXPECT_TRUE(Validate(ViewOptions{}).ok());
  EXPECT_TRUE(Validate(ViewOptions{.measure_every = 5, .bin = 64}).ok());
  const DistillationOptions d2 = {.kind = Distillation::kD2};
  EXPECT_TRUE(Validate(ViewOptions{.distillation = d2, .gates = {.kl_warn = 1}}).ok());
  const std::pair<ViewOptions, const char*> wrong[] = {
      {{.distillation = {.coefficient = 0.2}}, "distillation.coefficient=0.2"},
      {{.distillation = {.warmup_steps = 3}}, "warmup_steps=3"},
      {{.distillation = {Distillation::kD1, -1}}, "distillation.coefficient=-1"},
      {{.distillation = {Distillation::kD1, 0}}, "distillation.coefficient=0"},
      {{.distillation = {Distillation::kD1, 0.1, 257}}, "distillation.warmup_steps=257"},
      {{.measure_every = -1}, "measure_every=-1"},
      {{.distillation = d2, .measure_every = 2}, "measure_every=2"},
      {{.measure_every = 1, .bin = 0}, "bin=0"},
      {{.bin = 64}, "bin=64"},
      {{.gates = {.kl_stop = 1}}, "nothing is measured"},
      {{.measure_every = 1, .gates = {.acceptance_warn = 1.5}}, "gates.acceptance_warn=1.5"},
      {{.measure_every = 1, .gates = {.acceptance_warn = 0.8, .acceptance_stop = 0.9}},
       "gates.acceptance_stop=0.9"},
      {{.measure_every = 1, .gates = {.kl_warn = 2, .kl_stop = 1}}, "gates.kl_warn=2"},
      {{.measure_every = 1, .gates = {.kl_stop = INFINITY}}, "gates.kl_stop=inf"},
      {{.measure_every = 1, .gates = {.least_tokens = 0}}, "gates.least_tokens=0"}};
  for (const auto& [options, message] : wrong) {
    EXPECT_THAT(std::string(Validate(options).message()), HasSubstr(message));
  }
}

}  // namespace
}  // namespace palimpsest::rl
