#include <ATen/ATen.h>

#include <numeric>

#include "common/attention/execute_torch.h"
#include "services/inference/engine/host_ring_torch.h"
#include "services/inference/engine/paged_attention_torch.h"
#include "services/inference/engine/step_attention_torch.h"

namespace palimpsest::inference {
namespace {

// Rows from `begin` on of k and v [T, Hk, d], contiguous and in the pool's dtype, behind the slots
// that are there.
void Write(KvPool& pool, int layer, const StepRows& s, int64_t begin, const at::Tensor& k,
           const at::Tensor& v) {
  const int64_t heads = k.size(1), bytes = k.size(2) * static_cast<int64_t>(k.element_size());
  const char* keys = static_cast<const char*>(k.const_data_ptr()) + begin * heads * bytes;
  const char* values = static_cast<const char*>(v.const_data_ptr()) + begin * heads * bytes;
  for (int64_t i = 0; i < std::ssize(s.tokens); ++i) {
    for (int h = 0; h < heads; ++h) {
      const int64_t at = (i * heads + h) * bytes;
      const int32_t slot = s.lengths[layer * heads + h] + static_cast<int32_t>(i);
      pool.Write(layer, SlotAt(s.table, slot), h, keys + at, values + at, 0);
    }
  }
}

}  // namespace

StepAttention::StepAttention(KvPool& pool, std::span<const StepRows> sequences, double scale,
                             bool all_single)
    : pool_(pool), sequences_(sequences), scale_(scale), all_single_(all_single) {
  for (const StepRows& s : sequences) rows_ += std::ssize(s.tokens);
}

at::Tensor StepAttention::Attend(int layer, const at::Tensor& q_in, const at::Tensor& k_in,
                                 const at::Tensor& v_in) {
  const at::Tensor q = q_in.contiguous(), k = k_in.contiguous(), v = v_in.contiguous();
  at::Tensor o = at::empty_like(q);
  std::vector<SingleRow> single;
  std::vector<Chunk> chunks;
  int64_t begin = 0;
  for (const StepRows& s : sequences_) {
    const auto count = static_cast<int32_t>(s.tokens.size());
    if (count == 1 || all_single_) {
      for (int32_t i = 0; i < count; ++i)
        single.push_back({.row = begin + i, .sequence = &s, .seen_after = i + 1});
    } else {
      chunks.push_back({.begin = begin, .sequence = &s});
    }
    Write(pool_, layer, s, begin, k, v);
    if (s.ring != nullptr) {
      static_cast<HostRing*>(s.ring)->Record(layer, s.position + s.skipped, count - s.skipped,
                                             begin + s.skipped, q, k);
    }
    begin += count;
  }
  if (!single.empty()) AttendRows(pool_, layer, single, q, scale_, o);
  if (!chunks.empty()) AttendChunks(layer, chunks, q, k, v, o);
  return o;
}

// Keys of the chunks themselves stand in k and v [T, Hk, d], earlier ones in the pool.
void StepAttention::AttendChunks(int layer, const std::vector<Chunk>& chunks, const at::Tensor& q,
                                 const at::Tensor& k, const at::Tensor& v, at::Tensor& o) const {
  const int64_t heads = k.size(1);
  attention::PlanBuilder builder(rows_, static_cast<int>(heads));
  for (const auto& [begin, s] : chunks) {
    const auto count = static_cast<int32_t>(s->tokens.size());
    std::vector<int64_t> own(count);
    std::iota(own.begin(), own.end(), begin);
    builder.AddCausal(begin, own);
    std::vector<std::vector<int64_t>> earlier(heads);
    for (int h = 0; h < heads; ++h) {
      for (int32_t i = 0; i < s->lengths[layer * heads + h]; ++i)
        earlier[h].push_back(rows_ + SlotAt(s->table, i));
    }
    builder.AddPerHead(begin, count, std::move(earlier));
  }
  const attention::KeySource source{.k = k,
                                    .v = v,
                                    .k_compact = pool_.k(layer),
                                    .v_compact = pool_.v(layer),
                                    .bias = pool_.bias(layer)};
  const at::Tensor all = attention::ExecutePlan(builder.Build(), q, source, scale_).o;
  for (const auto& [begin, s] : chunks) {
    const int64_t count = std::ssize(s->tokens);
    o.narrow(0, begin, count).copy_(all.narrow(0, begin, count));
  }
}

}  // namespace palimpsest::inference
