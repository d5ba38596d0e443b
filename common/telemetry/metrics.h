#pragma once

#include <cstddef>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/clock.h"

namespace prometheus {
class Counter;
class Gauge;
class Histogram;
}  // namespace prometheus

namespace palimpsest {

// Handles to one time series. Cheap to copy, any thread; they live as long as their Metrics.
class Counter {
 public:
  explicit Counter(prometheus::Counter* series) : series_(series) {}
  void Add(double amount = 1);  // amount >= 0; less is ignored
  double Value() const;

 private:
  prometheus::Counter* series_;
};

class Gauge {
 public:
  explicit Gauge(prometheus::Gauge* series) : series_(series) {}
  void Set(double value);
  void Add(double amount);
  double Value() const;

 private:
  prometheus::Gauge* series_;
};

class Histogram {
 public:
  explicit Histogram(prometheus::Histogram* series) : series_(series) {}
  void Observe(double value);

 private:
  prometheus::Histogram* series_;
};

// One metric: its series by label values. With() takes a lock; keep the handle on hot paths.
// A family holds at most kMaxSeries series; what comes later is counted under "other".
template <class Handle>
class MetricFamily {
 public:
  static constexpr size_t kMaxSeries = 256;
  struct State;
  explicit MetricFamily(State* state) : state_(state) {}
  // One value per label name, in the order of the declaration.
  Handle With(const std::vector<std::string>& label_values) const;
  // Makes the series of these values of a single label. A counter of failures that is there from
  // the start, as 0, shows its first count to a rate; one that begins with it does not.
  const MetricFamily& Begin(const std::vector<std::string>& values) const;

 private:
  State* state_;
};

// What is said once about a metric. `name` is without the prefix palimpsest_, in lower snake case,
// and ends with its unit: counters in _total, times in _seconds, sizes in _bytes.
struct MetricSpec {
  std::string name;
  std::string help;
  std::vector<std::string> labels = {};  // at most 3
  bool operator==(const MetricSpec&) const = default;
};

struct CatalogueEntry {
  std::string name;  // with the prefix
  std::string type;  // counter, gauge, histogram
  std::string help;
  std::vector<std::string> labels;
};

// Upper bounds in seconds, from 1 ms for a token to an hour for a step.
std::vector<double> LatencyBuckets();

// All metrics of one daemon. Any thread. Every metric is declared once, at start; declaring the
// same metric again gives the same family, a different one under the same name (or a name that
// breaks the conventions) is our own bug and ends the process. `role` and `version` go into
// build_info; process metrics are filled when the text is made.
class Metrics {
 public:
  Metrics(std::string_view role, std::string_view version, Clock& clock);
  ~Metrics();

  MetricFamily<Counter> AddCounter(const MetricSpec& spec);
  MetricFamily<Gauge> AddGauge(const MetricSpec& spec);
  // `buckets`: ascending upper bounds in the unit of the metric; +Inf is added.
  MetricFamily<Histogram> AddHistogram(const MetricSpec& spec, std::vector<double> buckets);

  // In the order of declaration.
  std::vector<CatalogueEntry> Catalogue() const;

  // Prometheus text format 0.0.4.
  std::string Text();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest
