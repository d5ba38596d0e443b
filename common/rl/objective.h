#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/base/status.h"
#include "common/rl/correction.h"
#include "common/rl/surrogate.h"
#include "common/rl/token_weights.h"

// What reinforcement learning minimises, as one value and one pure function. In double, with the
// derivative written down: the trainer hands it to autograd, so there is no second formula.
namespace palimpsest::rl {

// Estimators of KL(policy || reference) at a sampled token, x = n - reference (Schulman, 2020).
//   k1 = x                    derivative 1: its gradient is 0 in expectation; a measure, not a pull
//   k2 = x^2 / 2              derivative x: on-policy, in expectation, the gradient of the KL
//   k3 = exp(-x) - 1 + x      derivative 1 - exp(-x); >= 0, the one of GRPO
enum class KlEstimator : uint8_t { kK1, kK2, kK3 };

struct KlOptions {
  KlEstimator estimator = KlEstimator::kK3;
  double coefficient = 0;  // >= 0; 0: no reference is held
  bool operator==(const KlOptions&) const = default;
};

// A method is one such value; which makes which stands in README.md. With token weights w
// (aggregation), the loss of a batch is the sum over its tokens of
//   surrogate + w (drift (n - o)^2 + reference_kl.coefficient k(n - reference) - entropy H)
struct ObjectiveOptions {
  SurrogateOptions surrogate = {};
  CorrectionOptions correction = {};
  AggregationOptions aggregation = {};
  KlOptions reference_kl = {};
  double drift = 0;    // >= 0; of the squared log-ratio to the sampler, IPO's and DPPO's brake
  double entropy = 0;  // >= 0; of the entropy H of each token's distribution, a bonus
  bool operator==(const ObjectiveOptions&) const = default;
};
absl::Status Validate(const ObjectiveOptions& options);

// The loss tokens of a micro-batch, T of them, sequence after sequence; none is cut.
struct ObjectiveInput {
  std::span<const double> logprobs;    // [T] n: under the present weights, nats
  std::span<const double> recorded;    // [T] o: when they were sampled, nats
  std::span<const double> advantages;  // [T] A
  std::span<const double> weights;     // [T] w: of the whole batch
  std::span<const int64_t> sequences;  // [S + 1] offsets, rising from 0 to T
  std::span<const double> entropies;   // [T] H, nats; may be empty when options.entropy is 0
  std::span<const double> reference;   // [T] under the reference, nats; may be empty without a KL
};

// Sums over tokens, so that those of micro-batches add up.
struct ObjectiveSums {
  int64_t tokens = 0;
  double ratio = 0, squared_ratio = 0;  // sum r, sum r^2, r = exp(n - o)
  double max_ratio = 0;
  int64_t clipped = 0;      // held back by a bound of the surrogate
  int64_t truncated = 0;    // factor above the correction's cap
  int64_t masked = 0;       // not counted by the correction
  double reference_kl = 0;  // nats, by the estimator
  void Add(const ObjectiveSums& other);
  // (sum r)^2 / (tokens * sum r^2): share of the tokens that the weighted batch is worth, [0, 1].
  double EffectiveShare() const;
};

struct ObjectiveResult {
  double loss = 0;
  std::vector<double> of_logprobs;   // [T] d loss / d n
  std::vector<double> of_entropies;  // [T] d loss / d H; empty without an entropy bonus
  ObjectiveSums sums;
};
ObjectiveResult Objective(const ObjectiveOptions& options, const ObjectiveInput& input);

}  // namespace palimpsest::rl
