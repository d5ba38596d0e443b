#include "services/inference/engine/event_executor.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "common/attention/event_wave.h"
#include "common/attention/execute_torch.h"
#include "services/inference/engine/sequence_torch.h"

namespace palimpsest::inference {
namespace {

// One event while its layers are being solved.
struct Open {
  attention::ReplayEvent request;
  std::vector<attention::HeadSlots> heads;   // [Hk] of the layer at hand
  std::vector<std::vector<int32_t>> chosen;  // [Hk]
};

Open Begin(const DueEvent& due) {
  Open open;
  if (due.forced) {
    open.request.event = *due.forced;
    return open;
  }
  open.request.keep_ratio = due.draft.keep_ratio;
  open.request.event = {.at = due.draft.at,
                        .window = due.draft.window,
                        .method = due.draft.method,
                        .parameters = due.draft.parameters,
                        .reference = due.draft.reference};
  return open;
}

void SolveLayer(int layer, std::vector<DueEvent>& due, std::vector<Open>& open, KvPool& pool,
                double scale) {
  // Every slot of the pool has a bias: all of it stands in the part of a key source that has one.
  const attention::KeySource source{.k = pool.k(layer).slice(0, 0, 0),
                                    .v = pool.v(layer).slice(0, 0, 0),
                                    .k_compact = pool.k(layer),
                                    .v_compact = pool.v(layer),
                                    .bias = pool.bias(layer)};
  std::vector<at::Tensor> queries, keys;
  int64_t stacked_queries = 0, stacked_keys = 0;
  std::vector<attention::PendingEvent> pending;
  for (size_t i = 0; i < due.size(); ++i) {
    SequenceCache& cache = *due[i].sequence->cache;
    open[i].heads.clear();
    for (int h = 0; h < cache.state().shape().kv_heads; ++h)
      open[i].heads.push_back(cache.Slots(layer, h));
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
                       .quality = due[i].forced ? nullptr : &due[i].sequence->events.back().quality,
                       .chosen = &open[i].chosen});
  }
  const at::Tensor q = queries.empty() ? at::zeros({0, 1, source.k.size(2)}) : at::cat(queries);
  const at::Tensor reference_keys = keys.empty() ? source.k : at::cat(keys);
  std::vector<at::Tensor> k = {source.k}, v = {source.v}, bias = {source.bias.slice(0, 0, 0)};
  attention::EventWave(layer, q, reference_keys, source, scale, compaction::GradientMode::kDetached)
      .Solve(pending, k, v, bias);
  const auto cached = [&](const std::vector<at::Tensor>& x) {
    return at::cat(x).to(source.k.scalar_type()).contiguous();
  };
  const at::Tensor new_k = cached(k), new_v = cached(v),
                   new_bias = at::cat(bias).to(at::kFloat).contiguous();
  for (size_t i = 0; i < due.size(); ++i) {
    due[i].sequence->cache->Rewrite(layer, open[i].heads, new_k, new_v, new_bias);
    if (due[i].forced) continue;
    context::Event& event = due[i].sequence->events.back();
    for (const auto& positions : open[i].chosen) event.kept.AddHead(positions);
  }
}

absl::Status Finish(Sequence& s, double seconds) {
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
  ++s.events_in_cache;
  return s.cache->Finish(event);
}

absl::Status Rebuilt(Sequence& s) { return s.cache->Finish(s.events[s.events_in_cache++]); }

}  // namespace

std::vector<absl::Status> ExecuteEvents(std::vector<DueEvent>& due, KvPool& pool, double scale,
                                        Clock& clock) {
  c10::NoGradGuard no_grad;
  const absl::Time begin = clock.Now();
  const context::Shape shape = due.front().sequence->cache->state().shape();
  std::vector<Open> open;
  for (DueEvent& d : due) {
    open.push_back(Begin(d));
    d.sequence->cache->OwnFrom(d.window());
    if (d.forced) continue;
    d.sequence->events.push_back(open.back().request.event);
    d.sequence->events.back().kept = context::KeptPositions(shape);
  }
  for (int layer = 0; layer < shape.layers; ++layer) SolveLayer(layer, due, open, pool, scale);
  const double seconds =
      absl::ToDoubleSeconds(clock.Now() - begin) / static_cast<double>(due.size());
  std::vector<absl::Status> statuses;
  for (const DueEvent& d : due)
    statuses.push_back(d.forced ? Rebuilt(*d.sequence) : Finish(*d.sequence, seconds));
  return statuses;
}

}  // namespace palimpsest::inference
