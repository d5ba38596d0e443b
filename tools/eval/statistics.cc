#include "tools/eval/statistics.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "common/base/random.h"

namespace palimpsest::tools::eval {

double PassAtK(int64_t n, int64_t c, int64_t k) {
  if (n - c < k) return 1;
  double none = 1;  // C(n - c, k) / C(n, k), as a product that neither overflows nor cancels
  for (int64_t i = n - c + 1; i <= n; ++i) {
    none *= 1 - static_cast<double>(k) / static_cast<double>(i);
  }
  return 1 - none;
}

double FairCoinTest(int64_t n, int64_t k) {
  const int64_t low = std::min(k, n - k);
  double tail = 0;
  for (int64_t i = 0; i <= low; ++i) {
    const auto x = static_cast<double>(i), all = static_cast<double>(n);
    tail += std::exp(std::lgamma(all + 1) - std::lgamma(x + 1) - std::lgamma(all - x + 1) -
                     all * std::log(2.0));
  }
  return std::min(1.0, 2 * tail);
}

SignTest TestSigns(std::span<const double> differences) {
  SignTest test;
  for (const double difference : differences) {
    ++(difference > 0 ? test.better : difference < 0 ? test.worse : test.equal);
  }
  test.p = FairCoinTest(test.better + test.worse, test.better);
  return test;
}

double Quantile(std::span<const double> ascending, double q) {
  const double place = q * static_cast<double>(ascending.size() - 1);
  const auto low = static_cast<size_t>(place);
  const size_t high = std::min(low + 1, ascending.size() - 1);
  return ascending[low] + (ascending[high] - ascending[low]) * (place - static_cast<double>(low));
}

Bootstrap::Bootstrap(std::span<const int> strata, int resamples, uint64_t seed)
    : prompts_(strata.size()), resamples_(resamples), times_(strata.size() * size_t(resamples)) {
  std::map<int, std::vector<size_t>> members;
  for (size_t i = 0; i < strata.size(); ++i) members[strata[i]].push_back(i);
  RandomStream stream(MixSeed({seed, Meaning("bootstrap")}));
  for (size_t r = 0; r < size_t(resamples); ++r) {
    uint16_t* const times = times_.data() + r * prompts_;
    for (const auto& [stratum, prompts] : members) {
      for (size_t i = 0; i < prompts.size(); ++i) {
        ++times[prompts[size_t(stream.Below(static_cast<int64_t>(prompts.size())))]];
      }
    }
  }
}

std::optional<Estimate> Bootstrap::Mean(std::span<const Part> parts) const {
  Part all;
  Estimate estimate;
  for (const Part& part : parts) {
    all.sum += part.sum;
    all.count += part.count;
    if (part.count > 0) ++estimate.prompts;
  }
  if (estimate.prompts == 0) return std::nullopt;
  estimate.value = all.sum / all.count;
  std::vector<double> means;
  for (size_t r = 0; r < size_t(resamples_); ++r) {
    const uint16_t* const times = times_.data() + r * prompts_;
    Part drawn;
    for (size_t i = 0; i < prompts_; ++i) {
      drawn.sum += times[i] * parts[i].sum;
      drawn.count += times[i] * parts[i].count;
    }
    if (drawn.count > 0) means.push_back(drawn.sum / drawn.count);
  }
  std::sort(means.begin(), means.end());
  estimate.low = means.empty() ? estimate.value : Quantile(means, 0.025);
  estimate.high = means.empty() ? estimate.value : Quantile(means, 0.975);
  return estimate;
}

}  // namespace palimpsest::tools::eval
