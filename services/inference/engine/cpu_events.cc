#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "common/attention/event_wave.h"
#include "common/attention/execute_torch.h"
#include "services/inference/engine/cpu_events_torch.h"
#include "services/inference/engine/host_ring_torch.h"

namespace palimpsest::inference {
namespace {

// Events in one operation. Of more the scores of small windows do not stay in a cache of 1 MB.
constexpr int64_t kSideBySide = 16;

struct Slice {
  int layer, first_head, heads;
  double scale;
  int before = 0;  // heads of the tasks' slice that come before these
};

// Every slot of the pool has a bias: all of it stands in the part of a key source that has one.
attention::KeySource SourceOf(const KvPool& pool, int layer) {
  return {.k = pool.k(layer).slice(0, 0, 0),
          .v = pool.v(layer).slice(0, 0, 0),
          .k_compact = pool.k(layer),
          .v_compact = pool.v(layer),
          .bias = pool.bias(layer)};
}

// `heads` [H']: what the slice's heads hold after an event, in order. A slot below the pool's size
// is one of this head's; slot N + i is row i of k, v [C, H', d], bias [C, H'] (contiguous, k and v
// in the pool's dtype, bias fp32).
void Rewrite(KvPool& pool, const Slice& slice, std::span<const int32_t> table,
             std::span<const attention::HeadSlots> heads, const at::Tensor& k, const at::Tensor& v,
             const at::Tensor& bias) {
  const int64_t bytes = k.size(2) * static_cast<int64_t>(k.element_size());
  const char* keys = static_cast<const char*>(k.const_data_ptr());
  const char* values = static_cast<const char*>(v.const_data_ptr());
  for (size_t h = 0; h < heads.size(); ++h) {
    const int head = slice.first_head + static_cast<int>(h);
    // A slot never moves up, so that none is overwritten before it has been read.
    for (size_t i = 0; i < heads[h].slot.size(); ++i) {
      const int64_t from = heads[h].slot[i], to = SlotAt(table, static_cast<int32_t>(i));
      if (from < pool.slots()) {
        pool.Move(slice.layer, from, to, head);
        continue;
      }
      const int64_t at =
          (from - pool.slots()) * static_cast<int64_t>(heads.size()) + static_cast<int64_t>(h);
      pool.Write(slice.layer, to, head, keys + at * bytes, values + at * bytes,
                 bias.const_data_ptr<float>()[at]);
    }
  }
}

// Some of the events. Thread: any, for other events than others.
void SolveSome(KvPool& pool, const Slice& slice, std::span<EventTask> some) {
  const attention::KeySource source = SourceOf(pool, slice.layer);
  std::vector<at::Tensor> queries, keys;
  int64_t stacked_queries = 0, stacked_keys = 0;
  std::vector<std::vector<attention::HeadSlots>> slots(some.size());
  std::vector<attention::PendingEvent> pending;
  for (size_t i = 0; i < some.size(); ++i) {
    EventTask& e = some[i];
    for (int h = slice.first_head; h < slice.first_head + slice.heads; ++h) {
      const int32_t length = e.lengths[slice.layer * e.state->shape().kv_heads + h];
      slots[i].push_back(LiveSlots(*e.state, e.table, length, slice.layer, h));
    }
    const bool by_key = e.request->event.parameters.reference_kind == context::ReferenceKind::kKeys;
    const int64_t offset = (by_key ? stacked_keys : stacked_queries) - e.recorded.begin;
    if (e.ring != nullptr) {
      const auto& ring = static_cast<const HostRing&>(*e.ring);
      queries.push_back(ring.Queries(slice.layer, e.recorded));
      keys.push_back(ring.Keys(slice.layer, e.recorded));
      stacked_queries += queries.back().size(0);
      stacked_keys += keys.back().size(0);
    }
    pending.push_back(
        {.request = e.request,
         .heads = &slots[i],
         .row_of = [offset](int32_t p) { return offset + p; },
         .quality = e.measured ? &e.quality : nullptr,
         .chosen = &e.kept,
         .carried = e.carried.empty() ? e.carried : e.carried.subspan(slice.before, slice.heads)});
  }
  const at::Tensor q = queries.empty() ? at::zeros({0, 1, source.k.size(2)}) : at::cat(queries);
  const at::Tensor reference_keys = keys.empty() ? source.k : at::cat(keys);
  // Compact slots, behind the pool's: none yet.
  const auto none = [&](const at::Tensor& x) {
    return std::vector{x.slice(0, 0, 0).slice(1, slice.first_head, slice.first_head + slice.heads)};
  };
  std::vector<at::Tensor> k = none(source.k), v = none(source.v), bias = none(source.bias);
  attention::EventWave(slice.layer, q, reference_keys, source, slice.scale,
                       compaction::GradientMode::kDetached, slice.first_head)
      .Solve(pending, k, v, bias);
  const auto cached = [&](const std::vector<at::Tensor>& x) {
    return at::cat(x).to(source.k.scalar_type()).contiguous();
  };
  const at::Tensor new_k = cached(k), new_v = cached(v),
                   new_bias = at::cat(bias).to(at::kFloat).contiguous();
  for (size_t i = 0; i < some.size(); ++i)
    Rewrite(pool, slice, some[i].table, slots[i], new_k, new_v, new_bias);
}

}  // namespace

void SolveOnHost(KvPool& pool, double scale, int layer, int first_head, int heads,
                 std::span<EventTask> events, EventCompany company) {
  for (EventTask& event : events) event.kept.clear();
  const Slice slice{layer, first_head, heads, scale};
  const auto solve = [&](int64_t from, int64_t to) {
    c10::NoGradGuard no_grad;
    for (int64_t i = from; i < to; i += kSideBySide)
      SolveSome(pool, slice, events.subspan(i, std::min(kSideBySide, to - i)));
  };
  const auto solve_alone = [&](int64_t from, int64_t to) {
    c10::NoGradGuard no_grad;
    for (int64_t i = from; i < to; ++i) {
      for (int h = 0; h < heads; ++h)
        SolveSome(pool, {layer, first_head + h, 1, scale, h}, events.subspan(i, 1));
    }
  };
  const int64_t count = std::ssize(events), threads = at::get_num_threads();
  if (company == EventCompany::kNone) {
    // A lone one, too, is a part of a parallel region: what it computes with is one thread.
    at::parallel_for(0, std::max(count, threads), 1, [&](int64_t from, int64_t to) {
      solve_alone(std::min(from, count), std::min(to, count));
    });
    return;
  }
  // An event is many small operations: each thread has some events. Of too few the threads share
  // the operations.
  if (count < threads) {
    solve(0, count);
  } else {
    at::parallel_for(0, count, (count + threads - 1) / threads, solve);
  }
}

}  // namespace palimpsest::inference
