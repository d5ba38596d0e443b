#include <memory>
#include <numeric>

#include "common/attention/cuda/segments.h"
#include "tests/gpu/bench.h"
#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::gpu_testing {
namespace {

constexpr int kHeads = 32, kKvHeads = 8, kD = 128;

std::vector<int64_t> Range(int64_t begin, int64_t end) {
  std::vector<int64_t> all(end - begin);
  std::iota(all.begin(), all.end(), begin);
  return all;
}

// One layer of a group that shares its prompt.
attention::AttentionPlan PlanOf(int responses, int prompt, int rows_each) {
  const int64_t rows = prompt + int64_t{responses} * rows_each;
  attention::PlanBuilder builder(rows, kKvHeads);
  builder.AddCausal(0, Range(0, prompt));
  for (int r = 0; r < responses; ++r) {
    const int64_t begin = prompt + int64_t{r} * rows_each;
    builder.AddCausal(begin, Range(begin, begin + rows_each));
  }
  builder.AddShared(Range(prompt, rows), Range(0, prompt));
  return builder.Build();
}

struct Carried {
  explicit Carried(const attention::KernelGroup& g)
      : rows(g.query_rows),
        slots(g.key_slots),
        offsets(g.causal_offset),
        uses(attention::UsesOf(g)),
        places(uses.places),
        begins(uses.begins),
        entries(uses.entries),
        view{.segments = static_cast<int>(g.segments),
             .kv_heads = static_cast<int>(g.kv_heads),
             .queries = static_cast<int>(g.queries),
             .keys = static_cast<int>(g.keys),
             .query_rows = rows.data(),
             .key_slots = slots.data(),
             .causal_offset = g.causal_offset.empty() ? nullptr : offsets.data()},
        scratch(attention::OrderedScratch(view, kD)) {}
  DeviceArray<int64_t> rows, slots, offsets;
  attention::KeyUses uses;
  DeviceArray<int64_t> places, begins, entries;
  attention::DeviceGroup view;
  DeviceArray<float> scratch;
};

void BenchShared(int responses, int prompt, int rows_each) {
  const int64_t rows = prompt + int64_t{responses} * rows_each;
  const attention::AttentionPlan plan = PlanOf(responses, prompt, rows_each);
  std::mt19937 rng(1);
  const size_t q_size = size_t{1} * rows * kHeads * kD, k_size = size_t{1} * rows * kKvHeads * kD;
  const DeviceArray<BFloat16> q(Normals<BFloat16>(rng, q_size, 1)),
      k(Normals<BFloat16>(rng, k_size, 1)), v(Normals<BFloat16>(rng, k_size, 1));
  const DeviceArray<float> o(std::vector<float>(q_size, 0)), d_o(Normals<float>(rng, q_size, 1)),
      d_q(std::vector<float>(q_size, 0)), d_k(std::vector<float>(k_size, 0)),
      d_v(std::vector<float>(k_size, 0)), lse(std::vector<float>(rows * kHeads, -INFINITY)),
      delta(std::vector<float>(rows * kHeads, 0));
  const attention::KernelOperands<BFloat16, float> x{.q = q.data(),
                                                     .k = k.data(),
                                                     .v = v.data(),
                                                     .raw_slots = rows,
                                                     .heads = kHeads,
                                                     .kv_heads = kKvHeads,
                                                     .d = kD,
                                                     .scale = 0.0884f};
  std::vector<std::unique_ptr<Carried>> groups;
  for (const auto& g : plan.groups) groups.push_back(std::make_unique<Carried>(g));
  const double pairs = kHeads * (0.5 * prompt * prompt +
                                 double{1} * responses * rows_each * (prompt + 0.5 * rows_each));
  const std::string shape = "(N, P, R) = (" + std::to_string(responses) + ", " +
                            std::to_string(prompt) + ", " + std::to_string(rows_each) + ")";
  const double forward = MedianMilliseconds(
      [&](cudaStream_t stream) {
        for (const auto& g : groups) {
          const auto launched = attention::ForwardGroup(x, g->view, o.data(), lse.data(), stream);
          if (!launched.ok()) return launched;
        }
        return cuda::Launched{};
      },
      7);
  PrintRow("segments forward, one layer, " + shape, forward, 0, 4 * pairs * kD);
  for (const bool ordered : {false, true}) {
    const double backward = MedianMilliseconds(
        [&](cudaStream_t stream) {
          for (const auto& g : groups) {
            const attention::OrderedSums sums{.places = g->places.data(),
                                              .begins = g->begins.data(),
                                              .entries = g->entries.data(),
                                              .count = static_cast<int64_t>(g->uses.places.size()),
                                              .scratch = g->scratch.data()};
            const auto launched = attention::BackwardGroup(
                x, g->view, d_o.data(), lse.data(), delta.data(),
                {d_q.data(), d_k.data(), d_v.data(), nullptr, nullptr, nullptr},
                ordered ? sums : attention::OrderedSums{}, stream);
            if (!launched.ok()) return launched;
          }
          return cuda::Launched{};
        },
        7);
    PrintRow(
        std::string("segments backward, ") + (ordered ? "ordered sums, " : "atomic sums, ") + shape,
        backward, 0, 10 * pairs * kD);
  }
}

}  // namespace

void BenchSegments() {
  BenchShared(8, 1024, 256);
  BenchShared(8, 512, 1024);
}

}  // namespace palimpsest::gpu_testing
