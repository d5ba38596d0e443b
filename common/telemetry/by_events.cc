#include "common/telemetry/by_events.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

namespace palimpsest {
namespace {

struct Range {
  int32_t last;  // inclusive
  const char* label;
};
constexpr std::array kRanges = {Range{0, "0"},
                                Range{1, "1"},
                                Range{2, "2"},
                                Range{4, "3-4"},
                                Range{8, "5-8"},
                                Range{16, "9-16"},
                                Range{std::numeric_limits<int32_t>::max(), "17+"}};

size_t RangeOf(int32_t events) {
  const auto holds = [events](const Range& range) { return events <= range.last; };
  return static_cast<size_t>(std::find_if(kRanges.begin(), kRanges.end(), holds) - kRanges.begin());
}

}  // namespace

std::string EventsLabel(int32_t events) { return kRanges[RangeOf(events)].label; }

GaugeByEvents::GaugeByEvents(const MetricFamily<Gauge>& family, Fold fold)
    : family_(family), fold_(fold) {
  Set({});
}

void GaugeByEvents::Set(const std::vector<ByEvents>& measured) const {
  std::array<double, kRanges.size()> values{};
  std::array<int64_t, kRanges.size()> tokens{};
  for (const ByEvents& one : measured) {
    const size_t range = RangeOf(one.events);
    double& value = values[range];
    if (fold_ == Fold::kMean) {
      value += one.value * static_cast<double>(one.tokens);
    } else if (std::isnan(one.value) || one.value > value) {
      value = one.value;  // what is no number stays none
    }
    tokens[range] += one.tokens;
  }
  for (size_t range = 0; range < kRanges.size(); ++range) {
    const auto count = static_cast<double>(tokens[range]);
    const double value = fold_ == Fold::kMax ? values[range] : values[range] / count;
    family_.With({kRanges[range].label})
        .Set(count > 0 ? value : std::numeric_limits<double>::quiet_NaN());
  }
}

}  // namespace palimpsest
