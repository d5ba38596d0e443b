#include "services/inference/engine/query_store.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <map>
#include <random>

#include "services/inference/engine/host_ring_torch.h"

namespace palimpsest::inference {
namespace {

constexpr int kLayers = 2, kHeads = 4, kKvHeads = 2, kWidth = 3, kCapacity = 5;

at::Tensor Values(const std::map<int32_t, at::Tensor>& rows, int heads) {
  std::vector<at::Tensor> all = {at::zeros({0, heads, kWidth})};
  for (const auto& [position, row] : rows) all.push_back(row.unsqueeze(0));
  return at::cat(all);
}

// Chunks of any length, one behind the other or from anywhere, against a map of positions.
TEST(QueryStoreTest, HoldsTheNewestPositionsThatAreNeededWhereverItsEndLies) {
  std::mt19937 rng(1);
  const auto draw = [&](int below) { return static_cast<int32_t>(rng() % below); };
  for (const bool with_keys : {false, true}) {
    QueryStore store(std::make_unique<HostRing>(kLayers, kHeads, kKvHeads, kWidth, at::kFloat,
                                                kCapacity, with_keys),
                     kCapacity, 1000);
    const auto& ring = static_cast<HostRing&>(*store.ring());
    const auto stored = [](const QueryStore& s) { return context::Range{s.begin(), s.end()}; };
    std::map<int32_t, at::Tensor> q[kLayers], k[kLayers];  // by position
    int32_t end = 0;
    for (int step = 0; step < 200; ++step) {
      const int32_t begin = draw(10) == 0 ? end + 3 : end, count = 1 + draw(2 * kCapacity);
      const int32_t needed = begin + count - draw(2 * kCapacity);
      if (begin != end) {
        for (auto& layer : q) layer.clear();
        for (auto& layer : k) layer.clear();
      }
      end = begin + count;
      const int32_t skipped = store.Extend(begin, count, needed);
      for (int l = 0; l < kLayers; ++l) {
        const int32_t others = draw(3);  // of the step's rows, those of others before it
        const at::Tensor new_q = at::randn({others + count, kHeads, kWidth}),
                         new_k = at::randn({others + count, kKvHeads, kWidth});
        if (skipped < count) {
          static_cast<HostRing&>(*store.ring())
              .Record(l, begin + skipped, count - skipped, others + skipped, new_q, new_k);
        }
        for (int32_t i = 0; i < count; ++i) {
          q[l][begin + i] = new_q[others + i];
          k[l][begin + i] = new_k[others + i];
        }
        const auto gone = std::max(needed, end - kCapacity);
        std::erase_if(q[l], [&](const auto& row) { return row.first < gone; });
        std::erase_if(k[l], [&](const auto& row) { return row.first < gone; });
      }
      ASSERT_EQ(store.end(), end);
      for (int l = 0; l < kLayers; ++l) {
        ASSERT_EQ(store.end() - store.begin(), std::ssize(q[l])) << "step " << step;
        ASSERT_TRUE(at::equal(ring.Queries(l, stored(store)), Values(q[l], kHeads)))
            << "step " << step;
        if (with_keys) {
          ASSERT_TRUE(at::equal(ring.Keys(l, stored(store)), Values(k[l], kKvHeads)))
              << "step " << step;
        }
      }
      const QueryStore copy = store.Clone();
      ASSERT_TRUE(at::equal(static_cast<HostRing&>(*copy.ring()).Queries(1, stored(copy)),
                            ring.Queries(1, stored(store))));
    }
    EXPECT_EQ(store.Clone().bytes(), 1000);
  }
}

}  // namespace
}  // namespace palimpsest::inference
