#pragma once

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "common/base/bfloat16.h"

// Random inputs and comparisons of the tests of kernels.
namespace palimpsest::gpu_testing {

template <class Stored>
std::vector<Stored> Normals(std::mt19937& rng, size_t count, float size) {
  std::normal_distribution<float> normal;
  std::vector<Stored> x(count);
  for (Stored& y : x) Narrow(size * normal(rng), &y);
  return x;
}

template <class Stored>
std::vector<double> Widened(const std::vector<Stored>& x) {
  std::vector<double> wide(x.size());
  for (size_t i = 0; i < x.size(); ++i) wide[i] = Widen(x[i]);
  return wide;
}

// |x - reference| / |reference|; NaN where x holds one, which no bound lets pass.
inline double Error(const std::vector<double>& x, const std::vector<double>& reference) {
  double difference = 0, norm = 0;
  for (size_t i = 0; i < reference.size(); ++i) {
    difference += (x[i] - reference[i]) * (x[i] - reference[i]);
    norm += reference[i] * reference[i];
  }
  return std::sqrt(difference) / std::max(std::sqrt(norm), 1e-300);
}

// Results that are stored as Stored against fp64: rounding of a bf16, sums in fp32.
template <class Stored>
constexpr double kTolerance = sizeof(Stored) == 2 ? 3e-3 : 3e-6;

}  // namespace palimpsest::gpu_testing
