#include "common/compaction/choose.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "common/base/random.h"
#include "common/compaction/cholesky.h"
#include "common/compaction/dot.h"

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

std::vector<int32_t> ShareByPositions(std::span<const Stretch> stretches, int32_t t) {
  std::vector<int32_t> shares(stretches.size(), 0);
  std::vector<size_t> open(stretches.size());
  std::iota(open.begin(), open.end(), 0);
  int64_t left = t, positions = 0;
  for (const Stretch& s : stretches) positions += s.positions;
  for (bool full = true; full;) {
    const int64_t all = positions, many = left;
    full = std::erase_if(open, [&](size_t i) {
             const Stretch& s = stretches[i];
             if (many * s.positions <= s.slots * all) return false;
             shares[i] = s.slots;
             left -= s.slots;
             positions -= s.positions;
             return true;
           }) > 0;
  }
  if (positions == 0) return shares;
  const int64_t many = left;
  const auto remainder = [&](size_t i) { return many * stretches[i].positions % positions; };
  for (size_t i : open) {
    shares[i] = static_cast<int32_t>(many * stretches[i].positions / positions);
    left -= shares[i];
  }
  std::stable_sort(open.begin(), open.end(),
                   [&](size_t a, size_t b) { return remainder(a) > remainder(b); });
  for (int64_t i = 0; i < left; ++i) ++shares[open[i]];
  return shares;
}

std::vector<int32_t> LargestByShare(std::span<const double> importance,
                                    std::span<const Stretch> stretches, int t) {
  const std::vector<int32_t> shares = ShareByPositions(stretches, t);
  std::vector<int32_t> kept;
  int32_t first = 0;
  for (size_t i = 0; i < stretches.size(); first += stretches[i++].slots) {
    for (int32_t j : Largest(importance.subspan(first, stretches[i].slots), shares[i]))
      kept.push_back(first + j);
  }
  return kept;
}

std::vector<int32_t> DiverseSlots(std::span<const double> importance, std::span<const double> keys,
                                  int d, int t) {
  const auto w = static_cast<int>(importance.size());
  constexpr double kRatio = (1 - kOwnPart) / kOwnPart;
  std::vector<double> unit(keys.begin(), keys.end()), along(w), inverse(d * d, 0.0), u(d);
  const auto key = [&](int j) { return unit.data() + static_cast<ptrdiff_t>(j) * d; };
  for (int j = 0; j < w; ++j) {
    const double length = std::sqrt(Dot(key(j), key(j), d));
    for (int i = 0; i < d; ++i) key(j)[i] = length > 0 ? key(j)[i] / length : 0;
    along[j] = length > 0 ? 1 : 0;  // u_j' A^-1 u_j
  }
  for (int i = 0; i < d; ++i) inverse[static_cast<ptrdiff_t>(i) * d + i] = 1;
  std::vector<uint8_t> taken(w, 0);
  std::vector<int32_t> picked;
  while (static_cast<int>(picked.size()) < t) {
    int best = -1;
    double most = -1;
    for (int j = 0; j < w; ++j) {
      const double gain =
          importance[j] * importance[j] * (kOwnPart + (1 - kOwnPart) * std::max(0.0, along[j]));
      if (!taken[j] && gain > most) best = j, most = gain;
    }
    taken[best] = 1;
    picked.push_back(best);
    for (int i = 0; i < d; ++i)
      u[i] = Dot(inverse.data() + static_cast<ptrdiff_t>(i) * d, key(best), d);
    const double step = kRatio / (1 + kRatio * Dot(u.data(), key(best), d));
    for (int i = 0; i < d; ++i) {
      for (int k = 0; k < d; ++k) inverse[static_cast<ptrdiff_t>(i) * d + k] -= step * u[i] * u[k];
    }
    for (int j = 0; j < w; ++j) {
      const double shared = Dot(u.data(), key(j), d);
      along[j] -= step * shared * shared;
    }
  }
  std::sort(picked.begin(), picked.end());
  return picked;
}

}  // namespace palimpsest::compaction
