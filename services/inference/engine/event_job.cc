#include "services/inference/engine/event_job.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "common/attention/event_wave.h"
#include "common/attention/execute_torch.h"
#include "services/inference/engine/sequence_torch.h"

namespace palimpsest::inference {
namespace {

// Events in one operation. Of more the scores of small windows do not stay in a cache of 1 MB.
constexpr int64_t kSideBySide = 16;

// Every slot of the pool has a bias: all of it stands in the part of a key source that has one.
attention::KeySource SourceOf(const KvPool& pool, int layer) {
  return {.k = pool.k(layer).slice(0, 0, 0),
          .v = pool.v(layer).slice(0, 0, 0),
          .k_compact = pool.k(layer),
          .v_compact = pool.v(layer),
          .bias = pool.bias(layer)};
}

absl::Status Log(Sequence& s, context::Event event, double seconds) {
  const double heads = static_cast<double>(event.kept.shape().layers) * event.kept.shape().kv_heads;
  event.quality.mass_error /= heads;
  event.quality.output_error /= heads;
  if (event.quality.holdout_mass_error) *event.quality.holdout_mass_error /= heads;
  if (event.quality.holdout_output_error) *event.quality.holdout_output_error /= heads;
  event.seconds = seconds;
  const context::Event* previous = s.events.empty() ? nullptr : &s.events.back();
  event.digest = context::ChainDigest(previous ? previous->digest : std::nullopt,
                                      previous ? previous->at : 0, s.tokens, event);
  s.events.push_back(std::move(event));
  return s.cache->Finish(s.events[s.events_in_cache++]);
}

}  // namespace

EventJob::EventJob(const DueEvent& first, KvPool& pool, double scale, Clock& clock)
    : pool_(pool),
      scale_(scale),
      clock_(clock),
      forced_(first.forced != nullptr),
      shape_(first.sequence->cache->state().shape()) {
  Add(first);
}

bool EventJob::Takes(const DueEvent& due) const {
  return layer_ == 0 && head_ == 0 && (due.forced != nullptr) == forced_;
}

void EventJob::Add(const DueEvent& due) {
  due.sequence->in_event = true;
  due.sequence->cache->OwnFrom(due.window());
  Open open{.due = due};
  if (due.forced) {
    open.request.event = *due.forced;
  } else {
    open.request.keep_ratio = due.draft.keep_ratio;
    open.request.event = {.at = due.draft.at,
                          .window = due.draft.window,
                          .method = due.draft.method,
                          .parameters = due.draft.parameters,
                          .reference = due.draft.reference};
    open.event = open.request.event;
    open.event.kept = context::KeptPositions(shape_);
    if (due.kept) open.request.event.kept = *due.kept;
  }
  open_.push_back(std::move(open));
}

void EventJob::DropLost() {
  std::erase_if(open_, [](const Open& o) { return !o.due.sequence->in_event; });
}

std::optional<int64_t> EventJob::EarlyPages() const {
  std::optional<int64_t> pages;
  for (const Open& o : open_) {
    if (o.due.early_pages) pages = pages.value_or(0) + *o.due.early_pages;
  }
  return pages;
}

// The slice at hand of some of the events. Thread: any, for other events than others.
void EventJob::SolveSome(std::span<Open> some, int heads) {
  const attention::KeySource source = SourceOf(pool_, layer_);
  std::vector<at::Tensor> queries, keys;
  int64_t stacked_queries = 0, stacked_keys = 0;
  std::vector<attention::PendingEvent> pending;
  for (Open& open : some) {
    SequenceCache& cache = *open.due.sequence->cache;
    open.heads.clear();
    for (int h = head_; h < head_ + heads; ++h) open.heads.push_back(cache.Slots(layer_, h));
    open.chosen.clear();
    const bool by_key =
        open.request.event.parameters.reference_kind == context::ReferenceKind::kKeys;
    const int64_t offset = (by_key ? stacked_keys : stacked_queries) - cache.queries().begin();
    if (cache.queries().enabled()) {
      queries.push_back(cache.queries().Queries(layer_));
      keys.push_back(cache.queries().Keys(layer_));
      stacked_queries += queries.back().size(0);
      stacked_keys += keys.back().size(0);
    }
    pending.push_back({.request = &open.request,
                       .heads = &open.heads,
                       .row_of = [offset](int32_t p) { return offset + p; },
                       .quality = open.due.forced ? nullptr : &open.event.quality,
                       .chosen = &open.chosen,
                       .carried = cache.carried(layer_, head_, heads)});
  }
  const at::Tensor q = queries.empty() ? at::zeros({0, 1, source.k.size(2)}) : at::cat(queries);
  const at::Tensor reference_keys = keys.empty() ? source.k : at::cat(keys);
  // Compact slots, behind the pool's: none yet.
  const auto none = [&](const at::Tensor& x) {
    return std::vector{x.slice(0, 0, 0).slice(1, head_, head_ + heads)};
  };
  std::vector<at::Tensor> k = none(source.k), v = none(source.v), bias = none(source.bias);
  attention::EventWave(layer_, q, reference_keys, source, scale_,
                       compaction::GradientMode::kDetached, head_)
      .Solve(pending, k, v, bias);
  const auto cached = [&](const std::vector<at::Tensor>& x) {
    return at::cat(x).to(source.k.scalar_type()).contiguous();
  };
  const at::Tensor new_k = cached(k), new_v = cached(v),
                   new_bias = at::cat(bias).to(at::kFloat).contiguous();
  for (Open& open : some) {
    open.due.sequence->cache->Rewrite(layer_, head_, open.heads, new_k, new_v, new_bias);
    if (open.due.forced) continue;
    for (const auto& positions : open.chosen) open.event.kept.AddHead(positions);
  }
}

void EventJob::Solve(int most) {
  const int heads = std::min(most, shape_.kv_heads - head_);
  const absl::Time begin = clock_.Now();
  const auto solve = [&](int64_t from, int64_t to) {
    c10::NoGradGuard no_grad;
    for (int64_t i = from; i < to; i += kSideBySide)
      SolveSome(std::span(open_).subspan(i, std::min(kSideBySide, to - i)), heads);
  };
  // An event is many small operations: each thread has some events. Of too few the threads share
  // the operations.
  const int64_t count = std::ssize(open_), threads = at::get_num_threads();
  if (count < threads) {
    solve(0, count);
  } else {
    at::parallel_for(0, count, (count + threads - 1) / threads, solve);
  }
  head_ = (head_ + heads) % shape_.kv_heads;
  if (head_ == 0) ++layer_;
  solved_ += heads * events();
  seconds_ += absl::ToDoubleSeconds(clock_.Now() - begin);
}

std::vector<EventJob::Result> EventJob::Finish() {
  std::vector<Result> results;
  const double seconds = seconds_ / static_cast<double>(std::max<size_t>(1, open_.size()));
  for (Open& open : open_) {
    Sequence& s = *open.due.sequence;
    s.in_event = false;
    results.push_back({open.due, open.due.forced ? s.cache->Finish(s.events[s.events_in_cache++])
                                                 : Log(s, std::move(open.event), seconds)});
  }
  open_.clear();
  return results;
}

}  // namespace palimpsest::inference
