#pragma once

#include <algorithm>
#include <array>
#include <cstddef>

namespace palimpsest::inference {

// The median of the last 64 values; 0 before the first.
class RecentMedian {
 public:
  void Add(double value) { values_[count_++ % values_.size()] = value; }
  double Median() const {
    const size_t n = std::min(count_, values_.size());
    if (n == 0) return 0;
    std::array<double, 64> sorted = values_;
    std::nth_element(sorted.begin(), sorted.begin() + n / 2, sorted.begin() + n);
    return sorted[n / 2];
  }

 private:
  std::array<double, 64> values_ = {};
  size_t count_ = 0;
};

}  // namespace palimpsest::inference
