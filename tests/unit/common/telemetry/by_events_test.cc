#include "common/telemetry/by_events.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <set>

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

TEST(ByEventsTest, ThereAreSevenRangesHoweverManyEvents) {
  std::set<std::string> labels;
  for (int32_t events = 0; events < 1000; ++events) labels.insert(EventsLabel(events));
  EXPECT_EQ(labels, (std::set<std::string>{"0", "1", "2", "3-4", "5-8", "9-16", "17+"}));
  EXPECT_EQ(EventsLabel(4), "3-4");
  EXPECT_EQ(EventsLabel(5), "5-8");
  EXPECT_EQ(EventsLabel(16), "9-16");
}

TEST(ByEventsTest, ARangeIsTheMeanByTokensOrTheWorst) {
  Metrics metrics("trainer", "1", SystemClock());
  const GaugeByEvents mean(metrics.AddGauge({"mean", "Mean.", {"events"}}),
                           GaugeByEvents::Fold::kMean);
  const GaugeByEvents worst(metrics.AddGauge({"worst", "Worst.", {"events"}}),
                            GaugeByEvents::Fold::kMax);
  const std::vector<ByEvents> measured{{3, 30, 1}, {4, 10, 5}, {40, 1, 7}};
  mean.Set(measured);
  worst.Set(measured);
  const std::string text = metrics.Text();
  EXPECT_THAT(text, HasSubstr("palimpsest_mean{events=\"3-4\"} 2\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_worst{events=\"3-4\"} 5\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_mean{events=\"17+\"} 7\n"));
  worst.Set({{3, 1, NAN}, {4, 1, 5}});
  EXPECT_THAT(metrics.Text(), HasSubstr("palimpsest_worst{events=\"3-4\"} Nan\n"));
}

TEST(ByEventsTest, WhatTheLastStepDidNotHaveIsNoNumber) {
  Metrics metrics("trainer", "1", SystemClock());
  const GaugeByEvents kl(metrics.AddGauge({"kl", "KL.", {"events"}}), GaugeByEvents::Fold::kMean);
  EXPECT_THAT(metrics.Text(), HasSubstr("palimpsest_kl{events=\"0\"} Nan\n"));
  kl.Set({{2, 1, 0.5}});
  EXPECT_THAT(metrics.Text(), HasSubstr("palimpsest_kl{events=\"2\"} 0.5\n"));
  kl.Set({{0, 1, 0.25}});
  EXPECT_THAT(metrics.Text(), HasSubstr("palimpsest_kl{events=\"2\"} Nan\n"));
}

}  // namespace
}  // namespace palimpsest
