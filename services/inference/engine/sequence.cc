#include <ATen/ATen.h>

#include "services/inference/engine/sequence_torch.h"

namespace palimpsest::inference {

SequenceCache::~SequenceCache() {
  for (const auto& [position, row] : rows_) pool_.Release(row);
}

std::unique_ptr<SequenceCache> SequenceCache::Fork() const {
  auto copy = std::make_unique<SequenceCache>(pool_, state_.shape(), queries_.Clone());
  copy->state_ = state_;
  copy->live_ = live_;
  copy->rows_ = rows_;
  for (const auto& [position, row] : rows_) pool_.Share(row);
  return copy;
}

void SequenceCache::Append(const std::vector<int64_t>& rows) {
  int32_t position = state_.processed();
  for (int64_t row : rows) {
    for (attention::HeadSlots& head : live_) {
      head.position.push_back(position);
      head.slot.push_back(row);
    }
    rows_.emplace(position++, row);
  }
  state_.Append(static_cast<int32_t>(rows.size()));
}

absl::Status SequenceCache::Replace(const context::Event& event, const std::vector<int64_t>& rows) {
  RETURN_IF_ERROR(state_.Apply(event));
  const auto first = rows_.lower_bound(event.window.begin),
             last = rows_.lower_bound(event.window.end);
  for (auto it = first; it != last; ++it) pool_.Release(it->second);
  rows_.erase(first, last);
  for (int64_t row : rows) rows_.emplace(event.window.begin, row);
  return absl::OkStatus();
}

rl::Rollout Sequence::ToRollout(rl::FinishReason reason, absl::Time now) const {
  const GenerationRequest& r = owner->request;
  const bool greedy = r.sampling.temperature <= 0;
  return {.id = r.request_id + "/" + std::to_string(sample),
          .tokens = tokens,
          .prompt_tokens = static_cast<int32_t>(r.prompt.size()),
          .origins = origins,
          .logprobs = logprobs,
          .events = events,
          .spans = spans,
          .finish_reason = reason,
          .seed = r.sampling.seed,
          .sample = sample,
          .temperature = greedy ? 1.0 : r.sampling.temperature,
          .greedy = greedy,
          .truncated_sampling = rl::ChangesDistribution(r.sampling),
          .seconds = absl::ToDoubleSeconds(now - started)};
}

void Sequence::AddSpan(PolicyVersion version, int32_t count) {
  const auto end = static_cast<int32_t>(tokens.size());
  if (!spans.empty() && spans.back().version == version) {
    spans.back().end = end;
  } else {
    spans.push_back({.begin = end - count, .end = end, .version = version, .kv_epoch = 0});
  }
}

int32_t ChunkBeforeNextEvent(const Sequence& s, int32_t most) {
  const int32_t pending = std::min(s.pending(), most);
  if (pending <= 1 || std::holds_alternative<context::NoTrigger>(s.owner->request.context.trigger))
    return pending;
  context::ContextState ahead = s.cache->state();
  for (int32_t chunk = 1; chunk < pending; ++chunk) {
    ahead.Append();
    const context::PolicyInput view{
        .state = ahead, .prompt_tokens = static_cast<int32_t>(s.owner->request.prompt.size())};
    if (!std::holds_alternative<context::Nothing>(context::Decide(s.owner->request.context, view)))
      return chunk;
  }
  return pending;
}

}  // namespace palimpsest::inference
