#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include "common/attention/paged_kernel.h"
#include "services/inference/engine/paged_attention_torch.h"

namespace palimpsest::inference {
namespace {

constexpr int64_t kSlotsPerTask = 128;  // keys times query heads that are worth a task

// One part of one row under one KV head, and where its sums go.
struct Part {
  const SingleRow* row = nullptr;
  int head = 0, index = 0, slots = 0;
  int64_t scratch = 0;  // of the row's first part under this head
};

template <class Stored>
void Attend(const KvPool& pool, int layer, const std::vector<SingleRow>& rows, const at::Tensor& q,
            double scale, at::Tensor& o) {
  const int64_t heads = q.size(1), kv_heads = pool.k(layer).size(1), d = q.size(2);
  const int group = static_cast<int>(heads / kv_heads), width = static_cast<int>(d);
  const attention::PagedCache<Stored> cache{
      .k = static_cast<const Stored*>(pool.k(layer).const_data_ptr()),
      .v = static_cast<const Stored*>(pool.v(layer).const_data_ptr()),
      .bias = pool.bias(layer).const_data_ptr<float>(),
      .kv_heads = static_cast<int>(kv_heads),
      .d = width};
  std::vector<Part> parts, long_rows;
  int64_t floats = 0, slots = 0;
  for (const SingleRow& row : rows) {
    for (int h = 0; h < kv_heads; ++h) {
      const int seen = row.sequence->lengths[layer * kv_heads + h] + row.seen_after;
      const int count = attention::PartsOf(seen);
      for (int p = 0; p < count; ++p) parts.push_back({&row, h, p, seen, floats});
      if (count > 1) long_rows.push_back(parts[parts.size() - count]);
      floats += attention::ScratchOf(count, group, width);
      slots += seen;
    }
  }
  static thread_local std::vector<float> scratch;
  scratch.resize(floats);
  float* sums = scratch.data();
  const auto* queries = static_cast<const Stored*>(q.const_data_ptr());
  auto* out = static_cast<Stored*>(o.data_ptr());
  const auto at = [&](const Part& part) { return (part.row->row * heads + part.head * group) * d; };
  const auto merge = [&](const Part& p) {
    attention::MergeParts(sums + p.scratch, attention::PartsOf(p.slots), group, width, out + at(p));
  };
  const int64_t count = static_cast<int64_t>(parts.size());
  const int64_t grain = std::max<int64_t>(1, kSlotsPerTask * count / std::max<int64_t>(1, slots));
  at::parallel_for(0, count, grain, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const Part& p = parts[i];
      attention::AttendPart(cache, {p.row->sequence->table.data(), p.slots}, p.head,
                            queries + at(p), group, static_cast<float>(scale), p.index,
                            sums + p.scratch + attention::ScratchOf(p.index, group, width));
      if (attention::PartsOf(p.slots) == 1) merge(p);
    }
  });
  for (const Part& p : long_rows) merge(p);
}

}  // namespace

void AttendRows(const KvPool& pool, int layer, const std::vector<SingleRow>& rows,
                const at::Tensor& q, double scale, at::Tensor& o) {
  if (q.scalar_type() == at::kBFloat16) {
    return Attend<BFloat16>(pool, layer, rows, q, scale, o);
  }
  TORCH_CHECK(q.scalar_type() == at::kFloat, "a paged cache is float32 or bfloat16");
  Attend<float>(pool, layer, rows, q, scale, o);
}

}  // namespace palimpsest::inference
