#include "tests/bench/read_rate.h"

#include <algorithm>
#include <atomic>
#include <thread>
#include <vector>

#include "common/base/clock.h"
#include "common/base/lanes.h"

namespace palimpsest::bench {
namespace {

constexpr int kSums = 8;  // registers that are added to in turn, so that no addition is waited for

int32_t SumOf(const int32_t* data, int64_t count) {
  Ints sums[kSums] = {};
  for (int64_t i = 0; i + kSums * kLanes <= count; i += kSums * kLanes) {
    for (int s = 0; s < kSums; ++s)
      sums[s] += *reinterpret_cast<const Ints*>(data + i + s * kLanes);
  }
  int32_t total = 0;
  for (const Ints& sum : sums)
    for (int lane = 0; lane < kLanes; ++lane) total += sum[lane];
  return total;
}

}  // namespace

double ReadRate(int64_t bytes, int threads, int times) {
  const int64_t share = bytes / static_cast<int64_t>(sizeof(int32_t)) / threads;
  const std::vector<int32_t> data(share * threads, 1);
  std::atomic<int32_t> sink = 0;  // somebody wants the sums
  double best = 0;
  for (int time = 0; time < times; ++time) {
    const absl::Time begin = SystemClock().Now();
    std::vector<std::thread> readers;
    for (int t = 0; t < threads; ++t)
      readers.emplace_back([&, t] { sink += SumOf(data.data() + t * share, share); });
    for (std::thread& reader : readers) reader.join();
    const double seconds = absl::ToDoubleSeconds(SystemClock().Now() - begin);
    best = std::max(best, static_cast<double>(data.size() * sizeof(int32_t)) / seconds);
  }
  return best;
}

}  // namespace palimpsest::bench
