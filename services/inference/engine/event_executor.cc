#include "services/inference/engine/event_executor.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "common/attention/event_wave.h"
#include "common/attention/rows_torch.h"
#include "services/inference/engine/sequence_torch.h"

namespace palimpsest::inference {
namespace {

// One event while its layers are being solved.
struct Open {
  attention::ReplayEvent request;
  std::vector<int64_t> rows;                 // new rows of the kept slots
  std::vector<attention::HeadSlots> heads;   // [Hk] of the layer at hand
  std::vector<std::vector<int32_t>> chosen;  // [Hk]
};

Open Begin(const DueEvent& due) {
  Open open;
  open.request.keep_ratio = due.draft.keep_ratio;
  open.request.event = {.at = due.draft.at,
                        .window = due.draft.window,
                        .method = due.draft.method,
                        .parameters = due.draft.parameters,
                        .reference = due.draft.reference};
  return open;
}

// Slots past the pool's end are the wave's new ones, numbered in order from each event's first:
// they move into `rows`. Evicted slots move too, bit by bit, so that the window's rows can be let
// go.
void Settle(Open& open, int layer, KvPool& pool, const attention::KeySource& source,
            const at::Tensor& k, const at::Tensor& v, const at::Tensor& bias) {
  const int64_t heads = static_cast<int64_t>(open.heads.size()),
                t = static_cast<int64_t>(open.rows.size());
  if (t == 0) return;
  std::vector<int64_t> from(t * heads, -1);  // flat (slot, head) of what each new row holds
  for (int64_t h = 0; h < heads; ++h) {
    attention::HeadSlots& head = open.heads[h];
    const auto run = head.Find(open.request.event.window);
    for (size_t j = run.first; j < run.last; ++j) {
      const auto to = static_cast<int64_t>(j - run.first);
      from[to * heads + h] = head.slot[j] * heads + h;
      head.slot[j] = open.rows[to];
    }
  }
  const at::Tensor index = at::tensor(from, at::kLong).view({t, heads});
  const auto flat = [](const at::Tensor& x) {
    return x.reshape({x.size(0) * x.size(1), x.size(2)});
  };
  const auto take = [&](const at::Tensor& old, const at::Tensor& fresh) {
    return attention::GatherRows(flat(old), flat(fresh.to(old.scalar_type())), index);
  };
  pool.Write(layer, open.rows, take(source.k_compact, k), take(source.v_compact, v),
             take(source.bias.unsqueeze(2), bias.unsqueeze(2)).squeeze(2));
}

void SolveLayer(int layer, std::vector<DueEvent>& due, std::vector<Open>& open, KvPool& pool,
                double scale) {
  const attention::KeySource source = pool.Source(layer);
  std::vector<at::Tensor> queries, keys;
  int64_t stacked_queries = 0, stacked_keys = 0;
  std::vector<attention::PendingEvent> pending;
  for (size_t i = 0; i < due.size(); ++i) {
    SequenceCache& cache = *due[i].sequence->cache;
    const auto live = cache.layer(layer);
    open[i].heads.assign(live.begin(), live.end());
    open[i].chosen.clear();
    const bool by_key = due[i].draft.parameters.reference_kind == context::ReferenceKind::kKeys;
    const int64_t offset = (by_key ? stacked_keys : stacked_queries) - cache.queries().begin();
    if (cache.queries().enabled()) {
      queries.push_back(cache.queries().Queries(layer));
      keys.push_back(cache.queries().Keys(layer));
      stacked_queries += queries.back().size(0);
      stacked_keys += keys.back().size(0);
    }
    pending.push_back({.request = &open[i].request,
                       .heads = &open[i].heads,
                       .row_of = [offset](int32_t p) { return offset + p; },
                       .quality = &due[i].sequence->events.back().quality,
                       .chosen = &open[i].chosen});
  }
  const at::Tensor q = queries.empty() ? at::zeros({0, 1, source.k.size(2)}) : at::cat(queries);
  const at::Tensor reference_keys = keys.empty() ? source.k : at::cat(keys);
  std::vector<at::Tensor> k = {source.k}, v = {source.v}, bias = {source.bias.slice(0, 0, 0)};
  attention::EventWave(layer, q, reference_keys, source, scale, compaction::GradientMode::kDetached)
      .Solve(pending, k, v, bias);
  const at::Tensor k_new = at::cat(k), v_new = at::cat(v), bias_new = at::cat(bias);
  for (size_t i = 0; i < due.size(); ++i) {
    if (layer == 0) {
      size_t most = 0;
      for (const auto& head : open[i].chosen) most = std::max(most, head.size());
      open[i].rows = pool.Take(static_cast<int64_t>(most));
    }
    Settle(open[i], layer, pool, source, k_new, v_new, bias_new);
    std::copy(open[i].heads.begin(), open[i].heads.end(),
              due[i].sequence->cache->layer(layer).begin());
    context::Event& event = due[i].sequence->events.back();
    for (const auto& positions : open[i].chosen) event.kept.AddHead(positions);
  }
}

absl::Status Finish(Sequence& s, const Open& open, double seconds) {
  context::Event& event = s.events.back();
  const double heads = static_cast<double>(event.kept.shape().layers) * event.kept.shape().kv_heads;
  event.quality.mass_error /= heads;
  event.quality.output_error /= heads;
  if (event.quality.holdout_mass_error) *event.quality.holdout_mass_error /= heads;
  if (event.quality.holdout_output_error) *event.quality.holdout_output_error /= heads;
  event.seconds = seconds;
  const context::Event* previous = s.events.size() > 1 ? &s.events[s.events.size() - 2] : nullptr;
  event.digest = context::ChainDigest(previous ? previous->digest : std::nullopt,
                                      previous ? previous->at : 0, s.tokens, event);
  return s.cache->Replace(event, open.rows);
}

}  // namespace

std::vector<absl::Status> ExecuteEvents(std::vector<DueEvent>& due, KvPool& pool, double scale,
                                        Clock& clock) {
  c10::NoGradGuard no_grad;
  const absl::Time begin = clock.Now();
  const context::Shape shape = due.front().sequence->cache->state().shape();
  std::vector<Open> open;
  for (DueEvent& d : due) {
    open.push_back(Begin(d));
    d.sequence->events.push_back(open.back().request.event);
    d.sequence->events.back().kept = context::KeptPositions(shape);
  }
  for (int layer = 0; layer < shape.layers; ++layer) SolveLayer(layer, due, open, pool, scale);
  const double seconds =
      absl::ToDoubleSeconds(clock.Now() - begin) / static_cast<double>(due.size());
  std::vector<absl::Status> statuses;
  for (size_t i = 0; i < due.size(); ++i)
    statuses.push_back(Finish(*due[i].sequence, open[i], seconds));
  return statuses;
}

}  // namespace palimpsest::inference
