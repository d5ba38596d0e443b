#include "common/rl/view_report.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>

#include "absl/strings/str_format.h"

namespace palimpsest::rl {
namespace {

double Or(double value, double worst) { return std::isfinite(value) ? value : worst; }

// The least value that at least `share` of them do not exceed.
double Percentile(std::vector<double>& values, double share) {
  const auto count = static_cast<double>(values.size());
  const auto rank = static_cast<int64_t>(std::ceil(share * count)) - 1;
  const auto at = values.begin() + std::clamp<int64_t>(rank, 0, std::ssize(values) - 1);
  std::nth_element(values.begin(), at, values.end());
  return *at;
}

double MeanOf(const std::vector<double>& values) {
  double sum = 0;
  for (double value : values) sum += value;
  return sum / static_cast<double>(values.size());
}

absl::Status InOrder(const char* first, double low, const char* second, double high) {
  if (low == 0 || high == 0 || low <= high) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("gates.%s=%g is above gates.%s=%g: nothing would warn before it stops", first,
                      low, second, high));
}

}  // namespace

ViewReport Report(std::span<const ViewGap> gaps, int32_t bin) {
  ViewReport report{.tokens = std::ssize(gaps)};
  std::vector<double> acceptance, dense_shadow, shadow_dense;
  std::map<int32_t, std::vector<double>> by_bin;
  for (const ViewGap& gap : gaps) {
    acceptance.push_back(Or(gap.acceptance, 0));
    dense_shadow.push_back(Or(gap.dense_shadow, std::numeric_limits<double>::infinity()));
    shadow_dense.push_back(Or(gap.shadow_dense, std::numeric_limits<double>::infinity()));
    by_bin[std::min(gap.place / bin, ViewReport::kMaxBins - 1)].push_back(acceptance.back());
  }
  report.acceptance = MeanOf(acceptance);
  report.dense_shadow = MeanOf(dense_shadow);
  report.shadow_dense = MeanOf(shadow_dense);
  report.dense_shadow_p99 = Percentile(dense_shadow, 0.99);
  report.shadow_dense_p99 = Percentile(shadow_dense, 0.99);
  for (auto& [number, values] : by_bin) {
    const bool last = number == ViewReport::kMaxBins - 1;
    report.bins.push_back({.begin = number * bin,
                           .end = last ? std::numeric_limits<int32_t>::max() : (number + 1) * bin,
                           .tokens = std::ssize(values),
                           .acceptance_p5 = Percentile(values, 0.05)});
  }
  return report;
}

absl::Status Validate(const ViewGates& g) {
  const std::pair<const char*, double> bounds[] = {{"acceptance_warn", g.acceptance_warn},
                                                   {"acceptance_stop", g.acceptance_stop},
                                                   {"kl_warn", g.kl_warn},
                                                   {"kl_stop", g.kl_stop}};
  for (const auto& [field, bound] : bounds) {
    const double most = field[0] == 'a' ? 1 : std::numeric_limits<double>::max();
    if (!(bound >= 0 && bound <= most)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("gates.%s=%g is not in [0, %g]", field, bound, most));
    }
  }
  if (g.least_tokens < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("gates.least_tokens=%d is not >= 1", g.least_tokens));
  }
  RETURN_IF_ERROR(
      InOrder("acceptance_stop", g.acceptance_stop, "acceptance_warn", g.acceptance_warn));
  return InOrder("kl_warn", g.kl_warn, "kl_stop", g.kl_stop);
}

std::vector<Breach> Judge(const ViewGates& g, const ViewReport& report) {
  std::vector<Breach> breaches;
  for (const ViewBin& bin : report.bins) {
    const auto broken = [&](double bound) {
      return bound > 0 && bin.tokens >= g.least_tokens && !(bin.acceptance_p5 >= bound);
    };
    const bool stop = broken(g.acceptance_stop);
    if (!stop && !broken(g.acceptance_warn)) continue;
    breaches.push_back(
        {stop,
         absl::StrFormat("5th percentile of the acceptance over response tokens from %d on is %g: "
                         "gates.acceptance_%s=%g",
                         bin.begin, bin.acceptance_p5, stop ? "stop" : "warn",
                         stop ? g.acceptance_stop : g.acceptance_warn)});
  }
  const std::pair<const char*, double> means[] = {{"dense || shadow", report.dense_shadow},
                                                  {"shadow || dense", report.shadow_dense}};
  for (const auto& [name, mean] : means) {
    const bool stop = g.kl_stop > 0 && !(mean <= g.kl_stop);
    if (!stop && !(g.kl_warn > 0 && !(mean <= g.kl_warn))) continue;
    breaches.push_back(
        {stop, absl::StrFormat("mean KL(%s) of a token is %g nats: gates.kl_%s=%g", name, mean,
                               stop ? "stop" : "warn", stop ? g.kl_stop : g.kl_warn)});
  }
  return breaches;
}

}  // namespace palimpsest::rl
