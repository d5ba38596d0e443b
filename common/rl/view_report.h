#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/base/status.h"

// How far the two views of rollouts (views.h) are apart, and where that is too far.
namespace palimpsest::rl {

// Of one token, p its distribution by the dense view, q by the shadow.
struct ViewGap {
  int32_t place = 0;        // in its response, from 0
  double acceptance = 1;    // sum over the vocabulary of min(p, q), [0, 1]
  double dense_shadow = 0;  // KL(p || q), nats
  double shadow_dense = 0;  // KL(q || p), nats
};

// Tokens whose place is in [begin, end); that of the last possible bin has no end (INT32_MAX).
struct ViewBin {
  int32_t begin = 0;
  int32_t end = 0;
  int64_t tokens = 0;
  double acceptance_p5 = 1;
  bool operator==(const ViewBin&) const = default;
};

// A percentile is the least value that so many of the tokens do not exceed.
struct ViewReport {
  static constexpr int32_t kMaxBins = 64;
  int64_t tokens = 0;
  double acceptance = 1;                              // mean
  double dense_shadow = 0, shadow_dense = 0;          // means, nats
  double dense_shadow_p99 = 0, shadow_dense_p99 = 0;  // nats
  std::vector<ViewBin> bins = {};                     // ascending; those that have tokens
  bool operator==(const ViewReport&) const = default;
};

// `gaps` not empty, in any order; bin >= 1 tokens. What is not finite counts as the worst there is.
ViewReport Report(std::span<const ViewGap> gaps, int32_t bin);

// Bounds of a report; 0: none. A mean acceptance says little, what is rare breaks a run: so the
// 5th percentile is judged, bin by bin (arXiv:2606.08446 keeps it above 0.86).
struct ViewGates {
  double acceptance_warn = 0, acceptance_stop = 0;  // least acceptance_p5 of a bin, [0, 1]
  double kl_warn = 0, kl_stop = 0;                  // largest mean KL, either way; nats
  int32_t least_tokens = 64;                        // >= 1; bins with fewer are not judged
  bool any() const {
    return acceptance_warn > 0 || acceptance_stop > 0 || kl_warn > 0 || kl_stop > 0;
  }
  bool operator==(const ViewGates&) const = default;
};
absl::Status Validate(const ViewGates& gates);

// A bound that a report does not hold.
struct Breach {
  bool stop = false;  // or it only warns
  std::string what;   // names measure, value, key and bound
};
// Where a stop is broken its warning is left out.
std::vector<Breach> Judge(const ViewGates& gates, const ViewReport& report);

}  // namespace palimpsest::rl
