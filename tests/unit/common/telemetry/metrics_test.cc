#include "common/telemetry/metrics.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <thread>

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class MetricsTest : public ::testing::Test {
 protected:
  FakeClock clock_{absl::FromUnixSeconds(1000)};
  Metrics metrics_{"trainer", "1.2.3", clock_};
};

TEST_F(MetricsTest, TextCarriesPrefixHelpLabelsAndValue) {
  const auto steps = metrics_.AddCounter({"steps_total", "Finished steps.", {"kind"}});
  steps.With({"full"}).Add();
  steps.With({"full"}).Add(2);
  steps.With({"dry"}).Add(-5);
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("# HELP palimpsest_steps_total Finished steps.\n"));
  EXPECT_THAT(text, HasSubstr("# TYPE palimpsest_steps_total counter\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_steps_total{kind=\"full\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_steps_total{kind=\"dry\"} 0\n"));
}

TEST_F(MetricsTest, HistogramsCountInCumulativeBuckets) {
  const Histogram wait =
      metrics_.AddHistogram({"wait_seconds", "Time in the queue."}, {0.1, 1}).With({});
  Histogram copy = wait;
  for (const double value : {0.05, 0.5, 0.7, 5.0}) copy.Observe(value);
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("palimpsest_wait_seconds_bucket{le=\"0.1\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_wait_seconds_bucket{le=\"1\"} 3\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_wait_seconds_bucket{le=\"+Inf\"} 4\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_wait_seconds_count 4\n"));
}

TEST_F(MetricsTest, ProcessAndBuildAreTold) {
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, HasSubstr("palimpsest_build_info{role=\"trainer\",version=\"1.2.3\"} 1\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_process_start_time_seconds 1000\n"));
  EXPECT_THAT(text, HasSubstr("palimpsest_process_cpu_seconds_total "));
  EXPECT_THAT(text, Not(HasSubstr("palimpsest_process_resident_memory_bytes 0\n")));
}

TEST_F(MetricsTest, CatalogueListsEachMetricOnce) {
  const MetricSpec spec{"queue_tokens", "Tokens that wait.", {"queue"}};
  metrics_.AddGauge(spec).With({"a"}).Set(3);
  metrics_.AddGauge(spec).With({"a"}).Add(1);
  EXPECT_EQ(metrics_.AddGauge(spec).With({"a"}).Value(), 4);
  int found = 0;
  for (const CatalogueEntry& entry : metrics_.Catalogue()) {
    EXPECT_FALSE(entry.help.empty()) << entry.name;
    EXPECT_TRUE(entry.name.starts_with("palimpsest_")) << entry.name;
    if (entry.name != "palimpsest_queue_tokens") continue;
    ++found;
    EXPECT_EQ(entry.type, "gauge");
    EXPECT_EQ(entry.labels, spec.labels);
  }
  EXPECT_EQ(found, 1);
}

TEST_F(MetricsTest, KnownValuesBeginAsZero) {
  const auto lost = metrics_.AddCounter({"lost_total", "Lost.", {"why"}}).Begin({"cut", "gone"});
  EXPECT_THAT(metrics_.Text(), HasSubstr("palimpsest_lost_total{why=\"gone\"} 0\n"));
  lost.With({"gone"}).Add();
  lost.Begin({"gone"});
  EXPECT_THAT(metrics_.Text(), HasSubstr("palimpsest_lost_total{why=\"gone\"} 1\n"));
}

TEST_F(MetricsTest, TooManySeriesFallIntoOther) {
  const auto family = metrics_.AddCounter({"calls_total", "Calls.", {"who"}});
  for (int i = 0; i < 1000; ++i) family.With({std::to_string(i)}).Add();
  EXPECT_EQ(family.With({"0"}).Value(), 1);
  EXPECT_EQ(family.With({"other"}).Value(), 1000 - 255);
}

TEST_F(MetricsTest, SeriesAreSharedBetweenThreads) {
  const auto family = metrics_.AddCounter({"ticks_total", "Ticks.", {"n"}});
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < 1000; ++i) family.With({std::to_string(i % 7)}).Add();
    });
  }
  for (std::thread& thread : threads) thread.join();
  double sum = 0;
  for (int n = 0; n < 7; ++n) sum += family.With({std::to_string(n)}).Value();
  EXPECT_EQ(sum, 4000);
}

using MetricsDeathTest = MetricsTest;

TEST_F(MetricsDeathTest, BrokenConventionsEndTheProcess) {
  GTEST_FLAG_SET(death_test_style, "threadsafe");
  EXPECT_DEATH(metrics_.AddCounter({"steps", "No suffix."}), "_total");
  EXPECT_DEATH(metrics_.AddGauge({"Steps", "Upper case."}), "snake");
  EXPECT_DEATH(metrics_.AddGauge({"steps", ""}), "help");
  EXPECT_DEATH(metrics_.AddGauge({"build_info", "Other words."}), "different words");
  EXPECT_DEATH(metrics_.AddGauge({"depth", "Depth.", {"a"}}).With({}), "label values");
}

}  // namespace
}  // namespace palimpsest
