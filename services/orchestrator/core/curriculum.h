#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "common/base/status.h"

// Which prompts a run spends itself on: what was measured in, what comes next out.
namespace palimpsest::orchestrator {

// Tasks get prompts by 1 / pass rate, so that each is solved about as often as the others. A task
// that is hardly ever solved, or nearly always, teaches little: those share a small part evenly,
// which is how it is noticed that they have changed.
struct TaskWeights {
  bool by_pass_rate = false;  // false: tasks take turns
  int32_t window = 64;        // latest groups that the pass rates are measured over, > 0
  // Solved of all rollouts, as soon as there are kKnownRollouts of the task:
  double hard = 0.02;       // at or below, it is hard; [0, easy)
  double easy = 0.98;       // at or above, easy; (hard, 1]
  double pool_share = 0.1;  // of the prompts, for all hard and easy tasks together; [0, 1)
  bool operator==(const TaskWeights&) const = default;
};

inline constexpr int64_t kKnownRollouts = 8;

// Groups whose rollouts are all solved, or none, have no advantage to learn from.
struct GroupFilter {
  bool all_solved = false;     // leave such groups out
  bool none_solved = false;    // likewise
  int32_t max_in_a_row = 256;  // then the next one is trained on whatever it is; > 0
  bool operator==(const GroupFilter&) const = default;
};

// Rollouts of one task in the window.
struct TaskRecord {
  int64_t rollouts = 0;
  int64_t solved = 0;
  bool operator==(const TaskRecord&) const = default;
};

// Shares of the next prompts, one per record; they sum to 1. The pass rate that a task is weighted
// by is (solved + 1) / (rollouts + 2), so one that nobody has tried counts as half solved.
std::vector<double> TaskShares(const TaskWeights& weights, std::span<const TaskRecord> records);

// The task that a uniform draw in [0, 1) falls on. `shares` is not empty.
size_t PickTask(std::span<const double> shares, double draw);

// Empty: the group is trained on. Else why it is left out, as it is counted: "all_solved" or
// "none_solved". A rollout is solved from a reward of `solved` on.
std::string WhyLeftOut(const GroupFilter& filter, double solved, std::span<const double> rewards);

// Share of the n-grams of a response that stand in it more than once, [0, 1): 0 says that nothing
// repeats, near 1 that it goes round in circles. 0 for fewer than n + 1 tokens.
double Repetition(std::span<const int32_t> response, size_t n = 8);

}  // namespace palimpsest::orchestrator
