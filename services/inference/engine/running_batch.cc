#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <utility>

#include "services/inference/core/admission.h"
#include "services/inference/engine/running_batch_torch.h"

namespace palimpsest::inference {
namespace {

at::ScalarType DTypeOf(const ModelInfo& model) {
  return model.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

}  // namespace

RunningBatch::RunningBatch(const ModelInfo& model, const Limits& limits, const Tokenizer* tokenizer,
                           const EngineObserver& observer, Clock& clock)
    : model_(model),
      limits_(limits),
      tokenizer_(tokenizer),
      observer_(observer),
      clock_(clock),
      cost_(CostOf(model)),
      dtype_(DTypeOf(model)),
      pool_(model.layers, model.kv_heads, model.head_dim, dtype_,
            limits.kv_pool_bytes / cost_.page_bytes) {}

std::unique_ptr<Sequence> RunningBatch::NewSequence(std::shared_ptr<RequestState> owner,
                                                    int32_t sample) {
  const GenerationRequest& r = owner->request;
  auto s = std::make_unique<Sequence>();
  s->sample = sample;
  s->tokens = r.prompt;
  s->origins.assign(r.prompt.size(), rl::Origin::kPrompt);
  s->logprobs.assign(r.prompt.size(), 0.0f);
  s->started = owner->arrived;
  s->last_token = owner->arrived;
  if (tokenizer_) {
    s->decoder.emplace(tokenizer_, true);
    // The strings were checked at admission.
    s->stops = *StopStrings::Create(r.sampling.stop_strings);
  }
  s->owner = std::move(owner);
  return s;
}

void RunningBatch::Step(const model::Decoder& decoder, PolicyVersion version) {
  const absl::Time begin = clock_.Now();
  version_ = version;
  Resume();
  SolveDueEvents(decoder.kernels());
  const std::vector<StepItem> items = PlanStep();
  if (!items.empty()) Draw(RunStep(decoder, pool_, items), items, version);
  StartSamples();
  DropStopped();
  if (limits_.check_pages) CheckPages();
  int rows = 0;
  for (const StepItem& item : items) rows += item.count;
  observer_.step(absl::ToDoubleSeconds(clock_.Now() - begin), rows);
}

// What falls due before the pending token: an event of the log that a rebuilt cache has yet to see,
// or else what the policy decides. False when the policy has no room left.
bool RunningBatch::Consider(Sequence& s, std::vector<DueEvent>& due) const {
  if (!s.cache || s.pending() == 0) return true;
  if (const context::Event* forced = s.NextInLog()) {
    if (forced->at == s.processed()) due.push_back({.sequence = &s, .forced = forced});
    return true;
  }
  const context::Decision decision = context::Decide(s.owner->request.context, s.PolicyView());
  if (const auto* draft = std::get_if<context::EventDraft>(&decision))
    due.push_back({.sequence = &s, .draft = *draft});
  return !std::holds_alternative<context::OutOfRoom>(decision);
}

std::vector<DueEvent> RunningBatch::FindDueEvents() {
  std::vector<DueEvent> due;
  for (Group& g : groups_) {
    if (Consider(*g.prompt, due)) continue;
    g.prompt->stopped = StopCause::kLength;  // all its samples end before their first token
    for (; g.started < g.owner->request.n; ++g.started) {
      auto s = NewSequence(g.owner, g.owner->request.first_sample + g.started);
      s->events = g.prompt->events;
      s->stopped = StopCause::kLength;
      End(*s);
    }
  }
  for (auto& s : running_) {
    if (!Consider(*s, due)) s->stopped = StopCause::kLength, End(*s);
  }
  DropStopped();
  return due;
}

void RunningBatch::SolveDueEvents(model::Kernels kernels) {
  std::vector<DueEvent> due = FindDueEvents();
  MakeRoom([&] {
    std::erase_if(due, [](const DueEvent& d) { return !d.sequence->cache; });
    int64_t pages = 0;
    for (const DueEvent& d : due) pages += d.sequence->cache->PagesToOwn(d.window());
    return pages * cost_.page_bytes;
  });
  // Of the log and new ones apart: only the latter are measured. Events side by side are padded to
  // the largest, which moves roundings: each by itself when those must not hang on the company.
  std::vector<std::vector<DueEvent>> waves;
  for (const bool forced : {true, false}) {
    std::vector<DueEvent> wave;
    for (const DueEvent& d : due) {
      if ((d.forced != nullptr) != forced) continue;
      wave.push_back(d);
      if (kernels == model::Kernels::kFixed) waves.push_back(std::exchange(wave, {}));
    }
    if (!wave.empty()) waves.push_back(std::move(wave));
  }
  for (std::vector<DueEvent>& wave : waves) SolveWave(wave);
  DropStopped();
}

void RunningBatch::SolveWave(std::vector<DueEvent>& wave) {
  const double scale = 1 / std::sqrt(static_cast<double>(model_.head_dim));
  const std::vector<absl::Status> statuses = ExecuteEvents(wave, pool_, scale, clock_);
  for (size_t i = 0; i < wave.size(); ++i) {
    Sequence& s = *wave[i].sequence;
    if (!statuses[i].ok()) {
      s.stopped = StopCause::kLength;
      Fail(s, statuses[i], true, rl::Outcome::kInfraFailed);
      continue;
    }
    if (wave[i].forced) continue;
    observer_.compaction(wave[i].draft.method, s.events.back().seconds);
    if (s.sample < 0) continue;
    s.owner->sink->OnEvent(s.sample, s.events.back());
    const auto& messages = s.owner->request.budget_messages;
    if (messages && messages->at_events && s.origins.back() == rl::Origin::kSampled)
      Inject(s, version_);
  }
}

std::vector<StepItem> RunningBatch::PlanStep() {
  std::vector<StepItem> items;
  int32_t prefill = limits_.prefill_tokens;
  const auto plan = [&](Sequence& s) {
    if (!s.cache || s.pending() == 0) return;
    const int32_t count = s.pending() == 1 ? 1 : ChunkBeforeNextEvent(s, prefill);
    if (s.pending() > 1) prefill -= count;
    if (count > 0) items.push_back({.sequence = &s, .count = count});
  };
  for (auto& s : running_) plan(*s);
  for (Group& g : groups_) plan(*g.prompt);
  MakeRoom([&] {
    std::erase_if(items, [](const StepItem& item) { return !item.sequence->cache; });
    int64_t pages = 0;
    for (const StepItem& item : items) pages += item.sequence->cache->PagesToReserve(item.count);
    return pages * cost_.page_bytes;
  });
  return items;
}

void RunningBatch::Draw(const StepOutput& output, const std::vector<StepItem>& items,
                        PolicyVersion version) {
  const size_t vocab = static_cast<size_t>(model_.vocab);
  for (size_t i = 0; i < output.with_logits.size(); ++i) {
    Sequence& s = *items[output.with_logits[i]].sequence;
    const std::span<const float> logits = std::span(output.logits).subspan(i * vocab, vocab);
    if (s.sample >= 0) {
      Accept(s, logits, version);
      continue;
    }
    for (Group& g : groups_) {
      if (g.prompt.get() != &s) continue;
      g.logits.assign(logits.begin(), logits.end());
      g.logits_version = version;
      observer_.tokens(static_cast<int>(s.tokens.size()), 0);
    }
  }
}

void RunningBatch::StartSamples() {
  for (auto g = groups_.begin(); g != groups_.end();) {
    const GenerationRequest& r = g->owner->request;
    while (!g->logits.empty() && g->started < r.n &&
           static_cast<int64_t>(running_.size()) < limits_.max_running &&
           (running_.empty() || FreeBytes() >= QueryBytes(r, model_) + Headroom())) {
      auto s = NewSequence(g->owner, r.first_sample + g->started++);
      s->cache = g->prompt->cache->Fork();
      s->events = g->prompt->events;
      s->events_in_cache = s->events.size();
      for (const context::Event& e : s->events) s->owner->sink->OnEvent(s->sample, e);
      running_.push_back(std::move(s));
      Accept(*running_.back(), g->logits, g->logits_version);
    }
    g = g->started < r.n ? std::next(g) : groups_.erase(g);
  }
}

}  // namespace palimpsest::inference
