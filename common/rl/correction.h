#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::rl {

// What is done about tokens whose probability is no longer the one that they were sampled with: the
// sampler computes with other kernels than the trainer, and the weights may be newer. With
// d_t = n_t - o_t (log-probability now minus recorded) and r_t = exp(d_t):
//   tis             a surrogate's factor is at most `upper`        truncated importance sampling
//                                                     (Ionides, 2008; Yao et al., 2025)
//   icepop          a token counts if lower <= r_t <= upper        (Ling team, arXiv:2510.18855)
//   sequence_mask   a sequence counts if lower <= r_t <= upper for each of its T_i tokens
//   geometric_mask  a sequence counts if lower <= exp(sum_t d_t / T_i) <= upper
//   sparse_rl       a sequence counts if lower <= r_t for each of its tokens, and a surrogate's
//                   factor is at most `upper`                      (Sparse-RL, arXiv:2601.10079)
// Masks and caps are constants of the gradient. What does not count keeps its part in the terms
// beside the surrogate (drift, KL, entropy): those hold the policy where the surrogate cannot.
enum class CorrectionKind : uint8_t {
  kNone,
  kTis,
  kIcePop,
  kSequenceMask,
  kGeometricMask,
  kSparseRl
};

struct CorrectionOptions {
  CorrectionKind kind = CorrectionKind::kTis;
  double lower = 0;  // [0, 1); of masks and sparse_rl only
  double upper = 5;  // > 1
  bool operator==(const CorrectionOptions&) const = default;
};
absl::Status Validate(const CorrectionOptions& options);

// The largest factor of a surrogate: `upper` under tis and sparse_rl, else infinite.
double FactorCap(const CorrectionOptions& options);

// [T] whether the surrogate of a token counts. differences: [T] d_t; sequences: [S + 1] offsets.
std::vector<bool> CountedTokens(const CorrectionOptions& options,
                                std::span<const double> differences,
                                std::span<const int64_t> sequences);

}  // namespace palimpsest::rl
