#pragma once

#include <compare>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "common/base/status.h"

// Recursive self-aggregation: in each round but the first every attempt has read some attempts of
// the round before it, and one attempt of the last round is the answer.
namespace palimpsest::tools::eval {

struct Aggregation {
  int32_t population = 0;  // K, attempts of a round; 0: nothing is aggregated
  int32_t aggregate = 0;   // k, how many an attempt reads; [1, K]
  int32_t rounds = 0;      // T, > 0
  bool operator==(const Aggregation&) const = default;
};

// Attempt `member` of [0, K) of a round of [0, T).
struct AttemptName {
  int32_t round = 0, member = 0;
  auto operator<=>(const AttemptName&) const = default;
};

// Which k members of the round before it an attempt of a round > 0 reads; ascending. Uniform.
std::vector<int32_t> Reads(const Aggregation& aggregation, uint64_t seed, const AttemptName& name);

// Makes an attempt that has read these texts; none in the first round.
using MakeAttempt = std::function<absl::StatusOr<std::string>(
    const AttemptName& name, const std::vector<std::string>& read)>;

// Member 0 of the last round. Of the others only those are made that it depends on, each once, what
// is read before what reads it; `seed` says which read which.
absl::StatusOr<std::string> Aggregate(const Aggregation& aggregation, uint64_t seed,
                                      const MakeAttempt& make);

// The question, then the attempts, then what is wanted. No attempts: the question.
std::string WithAttempts(const std::string& question, const std::vector<std::string>& attempts);

}  // namespace palimpsest::tools::eval
