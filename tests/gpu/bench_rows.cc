#include <algorithm>
#include <memory>
#include <numeric>

#include "common/attention/cuda/decode.h"
#include "common/model/cuda/row_operations.h"
#include "tests/gpu/bench.h"
#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::gpu_testing {
namespace {

// Qwen3-4B: 36 layers, 32 query and 8 KV heads of 128, hidden 2560, inner 9728, vocabulary 151936.
constexpr int kLayers = 36, kHeads = 32, kKvHeads = 8, kD = 128, kHidden = 2560, kInner = 9728,
              kVocabulary = 151936, kPageSlots = 16;

// Random numbers without drawing each: a block of them, again and again.
std::vector<BFloat16> Filled(size_t count, float size) {
  std::mt19937 rng(1);
  const std::vector<BFloat16> block = Normals<BFloat16>(rng, 65537, size);
  std::vector<BFloat16> all(count);
  for (size_t i = 0; i < count; ++i) all[i] = block[i % block.size()];
  return all;
}

// The attention of a whole step: every layer reads its own cache, so that nothing stays in L2.
void BenchDecode(int rows, int slots_per_row) {
  const int pages = (slots_per_row + kPageSlots - 1) / kPageSlots;
  // As many caches as fit in 8 GB, used in turn by the layers.
  const size_t layer = size_t{2} * rows * pages * kPageSlots * kKvHeads * kD;
  const int caches = static_cast<int>(std::clamp<size_t>((size_t{4} << 30) / layer, 1, kLayers));
  const size_t places = size_t{1} * rows * pages * kPageSlots * kKvHeads;
  const std::vector<BFloat16> numbers = Filled(places * kD, 1);
  std::vector<std::unique_ptr<DeviceArray<BFloat16>>> k, v;
  for (int i = 0; i < caches; ++i) {
    k.push_back(std::make_unique<DeviceArray<BFloat16>>(numbers));
    v.push_back(std::make_unique<DeviceArray<BFloat16>>(numbers));
  }
  const DeviceArray<float> bias(std::vector<float>(places, 0.0f));
  std::vector<int32_t> order(rows * pages);
  std::iota(order.begin(), order.end(), 0);
  std::mt19937 rng(2);
  std::shuffle(order.begin(), order.end(), rng);
  const DeviceArray<int32_t> tables(order),
      slots(std::vector<int32_t>(rows * kKvHeads, slots_per_row));
  const DeviceArray<BFloat16> q(Filled(size_t{1} * rows * kHeads * kD, 1)),
      o(size_t{1} * rows * kHeads * kD);
  const DeviceArray<float> scratch(attention::DecodeScratch(rows, kHeads, kD, slots_per_row));
  const double milliseconds = MedianMilliseconds([&](cudaStream_t stream) {
    for (int l = 0; l < kLayers; ++l) {
      const cuda::Launched launched = attention::Decode<BFloat16>(
          {.cache = {k[l % caches]->data(), v[l % caches]->data(), bias.data(), kKvHeads, kD},
           .q = q.data(),
           .o = o.data(),
           .tables = tables.data(),
           .slots = slots.data(),
           .scratch = scratch.data(),
           .rows = rows,
           .heads = kHeads,
           .table_pages = pages,
           .max_slots = slots_per_row,
           .scale = 0.0884f},
          stream);
      if (!launched.ok()) return launched;
    }
    return cuda::Launched{};
  });
  const double seen = double{kLayers} * rows * slots_per_row;
  PrintRow("decode attention, 36 layers, " + std::to_string(rows) + " rows of " +
               std::to_string(slots_per_row) + " slots",
           milliseconds, seen * kKvHeads * (2 * kD * sizeof(BFloat16) + sizeof(float)),
           seen * kHeads * kD * 4);
}

// What stands between a layer's products, 36 times.
void BenchSmall(int rows) {
  constexpr int kWidth = kHeads + 2 * kKvHeads;
  const DeviceArray<BFloat16> x(Filled(size_t{1} * rows * kHidden, 1)),
      add(Filled(size_t{1} * rows * kHidden, 1)), weight(Filled(kHidden, 1)),
      normed(size_t{1} * rows * kHidden), qkv(Filled(size_t{1} * rows * kWidth * kD, 1)),
      head_weight(Filled(kD, 1)), q(size_t{1} * rows * kHeads * kD),
      k(size_t{1} * rows * kKvHeads * kD), v(size_t{1} * rows * kKvHeads * kD),
      gate_up(Filled(size_t{2} * rows * kInner, 1)), gated(size_t{1} * rows * kInner);
  const DeviceArray<float> bias(size_t{1} * rows * kKvHeads),
      frequencies(std::vector<float>(kD / 2, 0.1f));
  std::vector<int64_t> row_of(rows * kKvHeads);
  for (size_t i = 0; i < row_of.size(); ++i) row_of[i] = static_cast<int64_t>(i) / kKvHeads;
  const DeviceArray<int64_t> slots(row_of);
  const DeviceArray<int32_t> positions(std::vector<int32_t>(rows, 1000));
  const double milliseconds = MedianMilliseconds([&](cudaStream_t stream) {
    for (int l = 0; l < kLayers; ++l) {
      for (int norm = 0; norm < 2; ++norm) {
        const auto launched = model::AddAndNorm<BFloat16>({.x = x.data(),
                                                           .add = add.data(),
                                                           .weight = weight.data(),
                                                           .out = normed.data(),
                                                           .rows = rows,
                                                           .n = kHidden,
                                                           .eps = 1e-6f},
                                                          stream);
        if (!launched.ok()) return launched;
      }
      const auto heads = model::RotateAndCache<BFloat16>({.qkv = qkv.data(),
                                                          .q_norm = head_weight.data(),
                                                          .k_norm = head_weight.data(),
                                                          .positions = positions.data(),
                                                          .frequencies = frequencies.data(),
                                                          .slots = slots.data(),
                                                          .q = q.data(),
                                                          .k_pool = k.data(),
                                                          .v_pool = v.data(),
                                                          .bias_pool = bias.data(),
                                                          .rows = rows,
                                                          .heads = kHeads,
                                                          .kv_heads = kKvHeads,
                                                          .d = kD,
                                                          .eps = 1e-6f},
                                                         stream);
      if (!heads.ok()) return heads;
      const auto gate = model::Gate(gate_up.data(), rows, kInner, gated.data(), stream);
      if (!gate.ok()) return gate;
    }
    return cuda::Launched{};
  });
  const double row_bytes = 2.0 * (2 * 4 * kHidden + 2 * kWidth * kD + 3 * kInner);
  PrintRow("norms, heads and gate, 36 layers, " + std::to_string(rows) + " rows", milliseconds,
           kLayers * rows * row_bytes, 0);
}

void BenchLogProbs(int rows) {
  const DeviceArray<float> logits(std::vector<float>(size_t{1} * rows * kVocabulary, 0.5f)),
      logprobs(rows);
  const DeviceArray<int32_t> targets(std::vector<int32_t>(rows, 77));
  const double milliseconds = MedianMilliseconds([&](cudaStream_t stream) {
    return model::TokenLogProbs({.logits = logits.data(),
                                 .targets = targets.data(),
                                 .logprobs = logprobs.data(),
                                 .rows = rows,
                                 .vocabulary = kVocabulary},
                                stream);
  });
  PrintRow("log-probabilities, " + std::to_string(rows) + " rows of 151936", milliseconds,
           4.0 * rows * kVocabulary, 0);
}

}  // namespace

void BenchRows() {
  for (const int rows : {1, 16, 64, 256}) BenchDecode(rows, rows == 256 ? 2048 : 4096);
  BenchDecode(1, 32768);
  for (const int rows : {1, 16, 64, 256}) BenchSmall(rows);
  for (const int rows : {1, 256}) BenchLogProbs(rows);
}

}  // namespace palimpsest::gpu_testing
