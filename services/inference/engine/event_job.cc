#include "services/inference/engine/event_job.h"

#include <algorithm>

#include "services/inference/engine/sequence.h"

namespace palimpsest::inference {
namespace {

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

EventJob::EventJob(const DueEvent& first, StepDevice& device, Clock& clock)
    : device_(device),
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

EventTask EventJob::TaskOf(const Open& open, int heads) const {
  SequenceCache& cache = *open.due.sequence->cache;
  return {.request = &open.request,
          .measured = !open.due.forced,
          .state = &cache.state(),
          .table = cache.table(),
          .lengths = cache.lengths(),
          .ring = cache.queries().ring(),
          .recorded = {cache.queries().begin(), cache.queries().end()},
          .carried = cache.carried(layer_, head_, heads),
          .quality = open.event.quality};
}

// What the device says of the slice at hand.
void EventJob::Take(EventTask& task, int heads, Open& open) {
  open.status.Update(task.status);
  if (!open.status.ok()) return;
  for (int h = 0; h < heads; ++h) {
    open.due.sequence->cache->Shrink(layer_, head_ + h, open.due.window(),
                                     static_cast<int32_t>(task.kept[h].size()));
    if (!open.due.forced) open.event.kept.AddHead(task.kept[h]);
  }
  open.event.quality = task.quality;
}

void EventJob::Solve(int most) {
  const int heads = std::min(most, shape_.kv_heads - head_);
  const absl::Time begin = clock_.Now();
  std::vector<EventTask> tasks;
  std::vector<Open*> solved;
  for (Open& open : open_) {
    if (!open.status.ok()) continue;
    tasks.push_back(TaskOf(open, heads));
    solved.push_back(&open);
  }
  device_.Solve(layer_, head_, heads, tasks);
  for (size_t i = 0; i < tasks.size(); ++i) Take(tasks[i], heads, *solved[i]);
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
    if (!open.status.ok()) {  // still in it: its cache is dropped with it
      results.push_back({open.due, open.status});
      continue;
    }
    s.in_event = false;
    results.push_back({open.due, open.due.forced ? s.cache->Finish(s.events[s.events_in_cache++])
                                                 : Log(s, std::move(open.event), seconds)});
  }
  open_.clear();
  return results;
}

}  // namespace palimpsest::inference
