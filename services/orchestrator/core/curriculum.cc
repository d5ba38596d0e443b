#include "services/orchestrator/core/curriculum.h"

#include <algorithm>
#include <numeric>
#include <set>

namespace palimpsest::orchestrator {

std::vector<double> TaskShares(const TaskWeights& weights, std::span<const TaskRecord> records) {
  std::vector<double> shares(records.size());
  std::vector<size_t> pool;
  double sum = 0;
  for (size_t i = 0; i < records.size(); ++i) {
    const auto rollouts = static_cast<double>(records[i].rollouts);
    const auto solved = static_cast<double>(records[i].solved);
    const bool known = records[i].rollouts >= kKnownRollouts;
    if (known && (solved <= weights.hard * rollouts || solved >= weights.easy * rollouts)) {
      pool.push_back(i);
    } else {
      sum += shares[i] = (rollouts + 2) / (solved + 1);
    }
  }
  // All of them, or none, in the pool: the others have nothing to share or get everything.
  const double pooled = sum == 0 ? 1 : pool.empty() ? 0 : weights.pool_share;
  for (double& share : shares) share *= sum == 0 ? 0 : (1 - pooled) / sum;
  for (const size_t i : pool) shares[i] = pooled / static_cast<double>(pool.size());
  return shares;
}

size_t PickTask(std::span<const double> shares, double draw) {
  double below = 0;
  for (size_t i = 0; i + 1 < shares.size(); ++i) {
    below += shares[i];
    if (draw < below) return i;
  }
  return shares.size() - 1;
}

std::string WhyLeftOut(const GroupFilter& filter, double solved, std::span<const double> rewards) {
  const auto right = std::count_if(rewards.begin(), rewards.end(),
                                   [&](double reward) { return reward >= solved; });
  if (filter.all_solved && right == std::ssize(rewards)) return "all_solved";
  if (filter.none_solved && right == 0) return "none_solved";
  return "";
}

double Repetition(std::span<const int32_t> response, size_t n) {
  if (response.size() <= n) return 0;
  std::set<std::vector<int32_t>> seen;
  const size_t count = response.size() - n + 1;
  for (size_t i = 0; i < count; ++i) {
    const auto gram = response.subspan(i, n);
    seen.emplace(gram.begin(), gram.end());
  }
  return 1 - static_cast<double>(seen.size()) / static_cast<double>(count);
}

}  // namespace palimpsest::orchestrator
