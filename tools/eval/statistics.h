#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

// Pure functions; nothing here knows what a policy is.
namespace palimpsest::tools::eval {

// 1 - C(n - c, k) / C(n, k): the chance that k of n answers, drawn without replacement, hold one of
// the c right ones; unbiased for pass@k (Chen et al. 2021, arXiv:2107.03374). 0 <= c <= n,
// 1 <= k <= n.
double PassAtK(int64_t n, int64_t c, int64_t k);

// Two-sided exact binomial test of n fair coins: the chance of a count at least as far from n / 2
// as k. 1 when n = 0.
double FairCoinTest(int64_t n, int64_t k);

struct SignTest {
  int64_t better = 0, worse = 0, equal = 0;  // differences > 0, < 0, = 0
  double p = 1;                              // of better against worse; equal ones say nothing
};
SignTest TestSigns(std::span<const double> differences);

// What one prompt adds to the two sums of a mean; {0, 0}: nothing.
struct Part {
  double sum = 0;
  double count = 0;
};

struct Estimate {
  double value = 0;
  double low = 0, high = 0;  // 95 %
  int64_t prompts = 0;       // that had a part in it
};

// Percentile bootstrap over prompts, drawn with replacement within their stratum (task), whose
// sizes are fixed by the one who asked. All estimates of one Bootstrap share the draws.
class Bootstrap {
 public:
  // strata: [prompts], each in [0, number of strata). Memory: 2 bytes * resamples * prompts.
  Bootstrap(std::span<const int> strata, int resamples, uint64_t seed);

  // Sum of the sums over sum of the counts. parts: [prompts]. nullopt when no prompt has a part;
  // resamples without any are left out of the interval.
  std::optional<Estimate> Mean(std::span<const Part> parts) const;

 private:
  size_t prompts_;
  int resamples_;
  std::vector<uint16_t> times_;  // [resamples][prompts]: how often each was drawn
};

// The q-quantile of ascending values, interpolated; q in [0, 1], at least one value.
double Quantile(std::span<const double> ascending, double q);

}  // namespace palimpsest::tools::eval
