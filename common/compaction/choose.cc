#include "common/compaction/choose.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/base/random.h"
#include "common/compaction/cholesky.h"

namespace palimpsest::compaction {
namespace {

template <class Real>
std::vector<int32_t> Largest(std::span<const Real> importance, int t) {
  std::vector<int32_t> order(importance.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](int32_t a, int32_t b) { return importance[a] > importance[b]; });
  order.resize(t);
  std::sort(order.begin(), order.end());
  return order;
}

}  // namespace

std::vector<int32_t> LargestByImportance(std::span<const float> importance, int t) {
  return Largest(importance, t);
}
std::vector<int32_t> LargestByImportance(std::span<const double> importance, int t) {
  return Largest(importance, t);
}

std::vector<int32_t> MostRecent(int w, int t) {
  std::vector<int32_t> kept(t);
  std::iota(kept.begin(), kept.end(), w - t);
  return kept;
}

std::vector<int32_t> RandomSlots(std::span<const int32_t> positions, int t, uint64_t seed,
                                 int layer, int head) {
  const uint64_t key = MixSeed({seed, Meaning("evict.random"), static_cast<uint64_t>(layer)});
  std::vector<double> draws(positions.size());
  for (size_t j = 0; j < positions.size(); ++j) draws[j] = Uniform01(key, head, positions[j]);
  return LargestByImportance(std::span<const double>(draws), t);
}

std::vector<int32_t> MatchingPursuit(std::span<const double> gram, std::span<const double> rhs,
                                     int w, int t) {
  std::vector<int32_t> picked;
  std::vector<uint8_t> taken(w, 0);
  std::vector<double> correlation(rhs.begin(), rhs.end());
  double trace = 0;
  for (int j = 0; j < w; ++j) trace += gram[static_cast<size_t>(j) * w + j];
  const double floor = 1e-12 * trace / std::max(w, 1) + 1e-300;
  while (static_cast<int>(picked.size()) < t) {
    int best = -1;
    double best_score = -1;
    for (int j = 0; j < w; ++j) {
      const double score =
          std::abs(correlation[j]) / std::sqrt(gram[static_cast<size_t>(j) * w + j] + floor);
      if (!taken[j] && score > best_score) best = j, best_score = score;
    }
    taken[best] = 1;
    picked.push_back(best);
    const int p = static_cast<int>(picked.size());
    std::vector<double> a(static_cast<size_t>(p) * p), x(p);
    for (int i = 0; i < p; ++i) {
      for (int k = 0; k < p; ++k)
        a[static_cast<size_t>(i) * p + k] = gram[static_cast<size_t>(picked[i]) * w + picked[k]];
      a[static_cast<size_t>(i) * p + i] += floor;
      x[i] = rhs[picked[i]];
    }
    CholeskyInPlace(a, p, floor);
    CholeskySolve(a, p, x, 1);
    for (int j = 0; j < w; ++j) {
      correlation[j] = rhs[j];
      for (int i = 0; i < p; ++i)
        correlation[j] -= gram[static_cast<size_t>(j) * w + picked[i]] * x[i];
    }
  }
  std::sort(picked.begin(), picked.end());
  return picked;
}

}  // namespace palimpsest::compaction
