#include "services/inference/engine/sequence.h"

#include <stdexcept>

namespace palimpsest::inference {

SequenceCache::~SequenceCache() {
  for (int32_t page : table_) pages_.Release(page);
}

std::unique_ptr<SequenceCache> SequenceCache::Fork() const {
  auto copy =
      std::make_unique<SequenceCache>(pages_, device_, state_.shape(), queries_.Clone(), flips_);
  copy->state_ = state_;
  copy->table_ = table_;
  copy->lengths_ = lengths_;
  copy->carried_ = carried_;
  copy->carried_bytes_ = carried_bytes_;
  for (int32_t page : table_) pages_.Share(page);
  return copy;
}

void SequenceCache::Adopt(std::span<const int32_t> pages) {
  table_.assign(pages.begin(), pages.end());
  for (int32_t page : table_) pages_.Share(page);
  Append(static_cast<int32_t>(pages.size()) * kPageSlots);
}

int64_t SequenceCache::SharedFrom(int32_t slot) const {
  int64_t shared = 0;
  for (size_t i = slot / kPageSlots; i < table_.size(); ++i) shared += pages_.Shared(table_[i]);
  return shared;
}

void SequenceCache::OwnFrom(int32_t slot) {
  for (size_t i = slot / kPageSlots; i < table_.size(); ++i) {
    const int32_t page = table_[i];
    if (!pages_.Shared(page)) continue;
    table_[i] = pages_.Take();
    device_.CopyPage(page, table_[i]);
    pages_.Release(page);
  }
}

int64_t SequenceCache::PagesToReserve(int32_t count) const {
  return SharedFrom(shortest()) + PagesFor(int64_t{longest()} + count) -
         static_cast<int64_t>(table_.size());
}

void SequenceCache::Reserve(int32_t count) {
  OwnFrom(shortest());
  while (static_cast<int64_t>(table_.size()) < PagesFor(int64_t{longest()} + count))
    table_.push_back(pages_.Take());
}

void SequenceCache::Append(int32_t count) {
  for (int32_t& length : lengths_) length += count;
  state_.Append(count);
}

int32_t SequenceCache::FirstSlotOf(context::Range window) const {
  int32_t first = INT32_MAX;
  for (int l = 0; l < state_.shape().layers; ++l) {
    for (int h = 0; h < state_.shape().kv_heads; ++h)
      first = std::min(first, state_.CountSlots(l, h, {0, window.begin}));
  }
  return first;
}

int64_t SequenceCache::PagesToOwn(context::Range window) const {
  return SharedFrom(FirstSlotOf(window));
}

void SequenceCache::OwnFrom(context::Range window) { OwnFrom(FirstSlotOf(window)); }

void SequenceCache::Shrink(int layer, int head, context::Range window, int32_t kept) {
  lengths_[Index(layer, head)] -= state_.CountSlots(layer, head, window) - kept;
}

absl::Status SequenceCache::Finish(const context::Event& event) {
  RETURN_IF_ERROR(state_.Apply(event));
  for (; static_cast<int64_t>(table_.size()) > PagesFor(longest()); table_.pop_back())
    pages_.Release(table_.back());
  carried_bytes_ = 0;
  for (const auto& head : carried_) carried_bytes_ += head.bytes();
  return absl::OkStatus();
}

std::unique_ptr<Sequence> Sequence::Fork() const {
  auto s = std::make_unique<Sequence>();
  s->sample = sample;
  s->cache = cache ? cache->Fork() : nullptr;
  s->events_in_cache = events_in_cache;
  s->kv_epoch = kv_epoch;
  s->prompt_tokens = prompt_tokens;
  s->turn_begins = turn_begins;
  s->tokens = tokens;
  s->origins = origins;
  s->logprobs = logprobs;
  s->events = events;
  s->spans = spans;
  s->mixed_sampling = mixed_sampling;
  return s;
}

void Sequence::StandAt(const rl::Rollout& log) {
  prompt_tokens = log.prompt_tokens;
  tokens = log.tokens;
  origins = log.origins;
  logprobs = log.logprobs;
  events = log.events;
  const absl::Status digests = context::CompleteDigests(tokens, events);  // later ones are chained
  if (!digests.ok()) throw std::logic_error(digests.ToString());
  spans = log.spans;
  kv_epoch = log.spans.empty() ? 1 : log.spans.back().kv_epoch + 1;
  mixed_sampling = log.truncated_sampling;
}

void Sequence::BeginStep() {
  step_begin = static_cast<int32_t>(tokens.size());
  counts.clear();
  sampled = since_message = 0;
  text.clear();
  stop_string.reset();
  stopped = StopCause::kNone;
  compacted = false;
}

rl::Rollout Sequence::ToRollout(rl::FinishReason reason, absl::Time now) const {
  const GenerationRequest& r = owner->request;
  const bool greedy = r.sampling.temperature <= 0;
  return {.id = r.request_id + "/" + std::to_string(sample),
          .tokens = tokens,
          .prompt_tokens = prompt_tokens,
          .origins = origins,
          .logprobs = logprobs,
          .events = events,
          .spans = spans,
          .finish_reason = reason,
          .seed = r.sampling.seed,
          .sample = sample,
          .temperature = greedy ? 1.0 : r.sampling.temperature,
          .greedy = greedy,
          .truncated_sampling = mixed_sampling || rl::ChangesDistribution(r.sampling),
          .seconds = absl::ToDoubleSeconds(now - started)};
}

void Sequence::AddSpan(PolicyVersion version, int32_t count) {
  const auto end = static_cast<int32_t>(tokens.size());
  if (!spans.empty() && spans.back().version == version && spans.back().kv_epoch == kv_epoch) {
    spans.back().end = end;
  } else {
    spans.push_back({.begin = end - count, .end = end, .version = version, .kv_epoch = kv_epoch});
  }
}

int32_t ChunkBeforeNextEvent(const Sequence& s, int32_t most) {
  const int32_t pending = std::min(s.runnable(), most);
  if (const context::Event* next = s.NextInLog())
    return std::min(pending, next->at - s.processed());
  if (pending <= 1 || std::holds_alternative<context::NoTrigger>(s.owner->request.context.trigger))
    return pending;
  context::ContextState ahead = s.cache->state();
  for (int32_t chunk = 1; chunk < pending; ++chunk) {
    ahead.Append();
    const context::Decision next = context::Decide(s.owner->request.context, s.PolicyView(ahead));
    if (!std::holds_alternative<context::Nothing>(next)) return chunk;
  }
  return pending;
}

}  // namespace palimpsest::inference
