#include <algorithm>
#include <numeric>

#include "common/compaction/cuda/match.h"
#include "tests/gpu/bench.h"
#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::gpu_testing {
namespace {

// One event of Qwen3-4B's shape: 36 layers of 8 KV heads, 4 query heads each, d = 128.
constexpr int kProblems = 288, kKvHeads = 8, kGroup = 4, kD = 128, kWindow = 1024, kKeep = 256,
              kPageSlots = 16;

void BenchEvent(int references) {
  constexpr int kSequences = kProblems / kKvHeads;  // as many layers, each with its own pages
  constexpr int kPages = kWindow / kPageSlots;
  const size_t places = size_t{kSequences} * kWindow * kKvHeads;
  std::mt19937 rng(1);
  // Keys and queries with a common part: attention has peaks, as that of a model.
  const DeviceArray<BFloat16> k(Normals<BFloat16>(rng, places * kD, 1.2f)),
      v(Normals<BFloat16>(rng, places * kD, 1)),
      q(Normals<BFloat16>(rng, size_t{kSequences} * references * kKvHeads * kGroup * kD, 1.2f));
  const DeviceArray<float> bias(std::vector<float>(places, 0.0f));
  std::vector<int32_t> pages(kSequences * kPages);
  std::iota(pages.begin(), pages.end(), 0);
  const DeviceArray<int32_t> tables(pages);
  std::vector<compaction::WindowHead<BFloat16>> windows;
  for (int p = 0; p < kProblems; ++p) {
    const int layer = p / kKvHeads, h = p % kKvHeads;
    windows.push_back({.k = k.data() + h * kD,
                       .v = v.data() + h * kD,
                       .bias = bias.data() + h,
                       .table = tables.data() + layer * kPages,
                       .first = 0,
                       .q = q.data() + (int64_t{layer} * references * kKvHeads + h) * kGroup * kD});
  }
  const int n = references * kGroup;
  const std::vector<compaction::HeadFacts> facts(kProblems,
                                                 {.width = kWindow, .keep = kKeep, .queries = n});
  const DeviceArray<compaction::WindowHead<BFloat16>> windows_there(windows);
  const DeviceArray<compaction::HeadFacts> facts_there(facts);
  const DeviceBytes workspace(compaction::EventWorkspaceBytes(kProblems, kWindow, n, kKeep, kD));
  const DeviceArray<int32_t> kept(kProblems * kKeep), solves(kProblems);
  const DeviceArray<float> new_bias(kProblems * kKeep);
  const DeviceArray<BFloat16> values(size_t{kProblems} * kKeep * kD);
  const DeviceArray<double> residuals(kProblems);
  const double milliseconds = MedianMilliseconds(
      [&](cudaStream_t stream) {
        return compaction::MatchEvents<BFloat16>(
            {.windows = {.windows = windows_there.data(),
                         .heads = facts_there.data(),
                         .problems = kProblems,
                         .w = kWindow,
                         .n = n,
                         .t = kKeep,
                         .d = kD,
                         .page_slots = kPageSlots,
                         .slot_stride = kKvHeads * kD,
                         .bias_stride = kKvHeads,
                         .group = kGroup,
                         .position_stride = kKvHeads * kGroup * kD,
                         .scale = 0.0884f},
             .workspace = workspace.data(),
             .kept = kept.data(),
             .bias = new_bias.data(),
             .values = values.data(),
             .kkt_residuals = residuals.data(),
             .solves = solves.data()},
            stream);
      },
      11);
  const std::vector<int32_t> taken = solves.Read();
  const std::vector<double> kkt = residuals.Read();
  const double operations =
      2.0 * kProblems * n * (2.0 * kWindow * kD + 0.5 * kKeep * kKeep * 2 + double{kKeep} * kD);
  PrintRow("event 1024 -> 256, 288 heads, " + std::to_string(references) +
               " references; systems for the weights at most " +
               std::to_string(*std::max_element(taken.begin(), taken.end())) + ", KKT residual " +
               std::to_string(*std::max_element(kkt.begin(), kkt.end()) * 1e9) + "e-9",
           milliseconds, 0, operations);
}

}  // namespace

void BenchEvents() {
  for (const int references : {128, 512}) BenchEvent(references);
}

}  // namespace palimpsest::gpu_testing
