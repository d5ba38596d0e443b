#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "common/telemetry/metrics.h"

namespace palimpsest {

// The label `events`: "0", "1", "2", "3-4", "5-8", "9-16", "17+". A policy with hundreds of events
// in a rollout has seven series, not hundreds.
std::string EventsLabel(int32_t events);

// What one step measured of tokens, by the number of events behind them.
struct ByEvents {
  int32_t events = 0;
  int64_t tokens = 0;
  double value = 0;
};

// A gauge with the label `events` that tells of the last step alone: a range that no token of it
// fell into is NaN, which no maximum and no alert sees. Any thread.
class GaugeByEvents {
 public:
  enum class Fold { kMean, kMax };  // of the values of one range; the mean is by tokens
  GaugeByEvents(const MetricFamily<Gauge>& family, Fold fold);
  void Set(const std::vector<ByEvents>& measured) const;

 private:
  MetricFamily<Gauge> family_;
  Fold fold_;
};

}  // namespace palimpsest
