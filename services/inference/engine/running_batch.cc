#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "services/inference/core/admission.h"
#include "services/inference/core/sampler.h"
#include "services/inference/engine/event_executor.h"
#include "services/inference/engine/running_batch_torch.h"

namespace palimpsest::inference {
namespace {

at::ScalarType DTypeOf(const ModelInfo& model) {
  return model.dtype == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

bool Contains(const std::vector<int32_t>& ids, int32_t id) {
  return std::find(ids.begin(), ids.end(), id) != ids.end();
}

std::optional<std::string> FirstStop(const std::string& text,
                                     const std::vector<std::string>& stops) {
  std::optional<std::string> found;
  size_t first = std::string::npos;
  for (const std::string& stop : stops) {
    const size_t at = text.find(stop);
    if (at < first) first = at, found = stop;
  }
  return found;
}

// A failure of ours is one of infrastructure; the rest is somebody's wish.
rl::Outcome OutcomeOf(const absl::Status& status) {
  return absl::IsInternal(status) ? rl::Outcome::kInfraFailed : rl::Outcome::kCancelled;
}

}  // namespace

RunningBatch::RunningBatch(const ModelInfo& model, const Limits& limits, const Tokenizer* tokenizer,
                           const EngineObserver& observer, Clock& clock)
    : model_(model),
      limits_(limits),
      tokenizer_(tokenizer),
      observer_(observer),
      clock_(clock),
      pool_(model.layers, model.kv_heads, model.head_dim, DTypeOf(model),
            limits.kv_pool_bytes / CostOf(model).page_bytes) {}

bool RunningBatch::CanAdmit(const GenerationRequest& r) const {
  return static_cast<int64_t>(running_.size() + groups_.size()) < limits_.max_running &&
         reserved_bytes_ + PromptBytes(r, model_) + BytesNeeded(r, model_) <= limits_.kv_pool_bytes;
}

void RunningBatch::Admit(std::shared_ptr<RequestState> owner) {
  owner->bytes_each = BytesNeeded(owner->request, model_);
  if (owner->request.sampling.repetition_penalty != 1) {
    for (int32_t id : owner->request.prompt) ++owner->prompt_counts[id];
  }
  reserved_bytes_ += PromptBytes(owner->request, model_) + owner->bytes_each;
  groups_.push_back({.owner = owner, .prompt = NewSequence(owner, -1)});
}

std::unique_ptr<Sequence> RunningBatch::NewSequence(std::shared_ptr<RequestState> owner,
                                                    int32_t sample) {
  const GenerationRequest& r = owner->request;
  auto s = std::make_unique<Sequence>();
  s->sample = sample;
  if (sample < 0) {
    const context::ContextPolicy& c = r.context;
    const int32_t recorded = RecordedPositions(r, model_.max_position);
    QueryStore queries =
        recorded > 0 ? QueryStore(model_.layers, model_.heads, model_.kv_heads, model_.head_dim,
                                  DTypeOf(model_), recorded,
                                  c.parameters.reference_kind == context::ReferenceKind::kKeys)
                     : QueryStore();
    s->cache = std::make_unique<SequenceCache>(
        pool_, context::Shape{model_.layers, model_.kv_heads}, std::move(queries));
  }
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

void RunningBatch::CheckPages() const {
  std::vector<std::span<const int32_t>> tables;
  for (const Group& g : groups_) tables.push_back(g.prompt->cache->table());
  for (const auto& s : running_) tables.push_back(s->cache->table());
  const absl::Status status = pool_.pages().Check(tables);
  TORCH_CHECK(status.ok(), std::string(status.message()));
}

// Events side by side are padded to the largest, which moves roundings: not when those must not
// hang on the company.
std::vector<absl::Status> RunningBatch::Execute(std::vector<DueEvent>& due,
                                                model::Kernels kernels) {
  const double scale = 1 / std::sqrt(static_cast<double>(model_.head_dim));
  if (kernels != model::Kernels::kFixed) return ExecuteEvents(due, pool_, scale, clock_);
  std::vector<absl::Status> statuses;
  for (const DueEvent& one : due) {
    std::vector<DueEvent> alone = {one};
    statuses.push_back(ExecuteEvents(alone, pool_, scale, clock_).front());
  }
  return statuses;
}

void RunningBatch::SolveDueEvents(model::Kernels kernels) {
  std::vector<DueEvent> due;
  const auto consider = [&](Sequence& s) -> bool {
    if (s.pending() == 0) return true;
    const context::Decision decision = context::Decide(s.owner->request.context, s.PolicyView());
    if (const auto* draft = std::get_if<context::EventDraft>(&decision))
      due.push_back({.sequence = &s, .draft = *draft});
    return !std::holds_alternative<context::OutOfRoom>(decision);
  };
  for (Group& g : groups_) {
    if (consider(*g.prompt)) continue;
    g.prompt->stopped = StopCause::kLength;  // all its samples end before their first token
    for (; g.started < g.owner->request.n; ++g.started) {
      auto s = NewSequence(g.owner, g.owner->request.first_sample + g.started);
      s->events = g.prompt->events;
      s->stopped = StopCause::kLength;
      End(*s);
    }
  }
  for (auto& s : running_) {
    if (!consider(*s)) s->stopped = StopCause::kLength, End(*s);
  }
  DropStopped();
  if (due.empty()) return;
  const std::vector<absl::Status> statuses = Execute(due, kernels);
  for (size_t i = 0; i < due.size(); ++i) {
    Sequence& s = *due[i].sequence;
    observer_.compaction(due[i].draft.method, s.events.back().seconds);
    if (!statuses[i].ok()) {
      s.stopped = StopCause::kLength;
      Fail(s, statuses[i], true, rl::Outcome::kInfraFailed);
      continue;
    }
    if (s.sample < 0) continue;
    s.owner->sink->OnEvent(s.sample, s.events.back());
    const auto& messages = s.owner->request.budget_messages;
    if (messages && messages->at_events && s.origins.back() == rl::Origin::kSampled)
      Inject(s, version_);
  }
  DropStopped();
}

std::vector<StepItem> RunningBatch::PlanStep() {
  std::vector<StepItem> items;
  int32_t prefill = limits_.prefill_tokens;
  const auto plan = [&](Sequence& s) {
    if (s.pending() == 0) return;
    const int32_t count = s.pending() == 1 ? 1 : ChunkBeforeNextEvent(s, prefill);
    if (s.pending() > 1) prefill -= count;
    if (count > 0) items.push_back({.sequence = &s, .count = count});
  };
  for (auto& s : running_) plan(*s);
  for (Group& g : groups_) plan(*g.prompt);
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
           static_cast<int64_t>(running_.size()) < limits_.max_running) {
      if (!g->slot_free) {
        if (reserved_bytes_ + g->owner->bytes_each > limits_.kv_pool_bytes) break;
        reserved_bytes_ += g->owner->bytes_each;
      }
      g->slot_free = false;
      auto s = NewSequence(g->owner, r.first_sample + g->started++);
      s->cache = g->prompt->cache->Fork();
      s->events = g->prompt->events;
      for (const context::Event& e : s->events) s->owner->sink->OnEvent(s->sample, e);
      running_.push_back(std::move(s));
      Accept(*running_.back(), g->logits, g->logits_version);
    }
    if (g->started < r.n) {
      ++g;
      continue;
    }
    reserved_bytes_ -= PromptBytes(r, model_) + (g->slot_free ? g->owner->bytes_each : 0);
    g = groups_.erase(g);
  }
}

void RunningBatch::Accept(Sequence& s, std::span<const float> logits, PolicyVersion version) {
  const rl::SamplingParams& p = s.owner->request.sampling;
  const auto position = static_cast<int32_t>(s.tokens.size());
  const double u = Uniform01(p.seed, s.sample, position);
  const inference::Draw draw = SampleToken(logits, p, s.counts, s.owner->prompt_counts, u);
  if (!std::isfinite(draw.logprob)) {
    s.stopped = StopCause::kLength;
    return Fail(s,
                absl::InternalError(
                    absl::StrFormat("position %d: the logits of policy version %d are not finite",
                                    position, version.value())),
                false, rl::Outcome::kInfraFailed);
  }
  s.tokens.push_back(draw.token);
  s.origins.push_back(rl::Origin::kSampled);
  s.logprobs.push_back(draw.logprob);
  s.AddSpan(version, 1);
  ++s.counts[draw.token];
  ++s.sampled;
  ++s.since_message;
  const absl::Time now = clock_.Now();
  (s.sampled == 1 ? observer_.first_token
                  : observer_.token_gap)(absl::ToDoubleSeconds(now - s.last_token));
  s.last_token = now;
  observer_.tokens(0, 1);

  const bool may_stop = s.sampled >= p.min_tokens;
  const bool stop_id =
      Contains(p.stop_ids, draw.token) || (!p.ignore_eos && Contains(model_.stop_ids, draw.token));
  TokenChunk chunk{.sample = s.sample,
                   .begin = position,
                   .ids = {draw.token},
                   .logprobs = {draw.logprob},
                   .origins = {rl::Origin::kSampled},
                   .text = {},
                   .version = version,
                   .kv_epoch = 0};
  AcceptText(s, chunk);
  if (may_stop && (stop_id || (s.stops && s.stops->stopped()))) {
    s.stopped = StopCause::kStop;
  } else if (s.sampled == p.max_tokens.value_or(INT32_MAX) ||
             static_cast<int32_t>(s.tokens.size()) == model_.max_position) {
    s.stopped = StopCause::kLength;
  }
  if (s.stopped != StopCause::kNone && s.stops) {
    const std::string rest = s.stops->Push(s.decoder->Flush()) + s.stops->Flush();
    chunk.text += rest;
    s.text += rest;
  }
  s.owner->sink->OnTokens(std::move(chunk));
  if (s.stopped != StopCause::kNone) return End(s);
  const auto& messages = s.owner->request.budget_messages;
  if (messages && messages->every > 0 && s.since_message >= messages->every) Inject(s, version);
}

void RunningBatch::AcceptText(Sequence& s, TokenChunk& chunk) {
  if (!s.decoder) return;
  chunk.text = s.stops->Push(s.decoder->Push(chunk.ids.front()));
  s.text += chunk.text;
  if (s.stops->stopped() && !s.stop_string) {
    const std::vector<int32_t> sampled(
        s.tokens.begin() + static_cast<std::ptrdiff_t>(s.owner->request.prompt.size()),
        s.tokens.end());
    const auto whole = tokenizer_->Decode(sampled, true);
    if (whole.ok()) s.stop_string = FirstStop(*whole, s.owner->request.sampling.stop_strings);
  }
}

void RunningBatch::Inject(Sequence& s, PolicyVersion version) {
  const rl::BudgetMessages& m = *s.owner->request.budget_messages;
  const int32_t budget = m.total > 0 ? m.total : s.owner->request.sampling.max_tokens.value_or(0);
  const auto ids = tokenizer_->Encode(RenderMessage(m, s.sampled, budget));
  // A message that would not leave a position for an answer is left out.
  if (!ids.ok() || static_cast<int64_t>(s.tokens.size() + ids->size()) >= model_.max_position)
    return;
  s.since_message = 0;
  TokenChunk chunk{.sample = s.sample,
                   .begin = static_cast<int32_t>(s.tokens.size()),
                   .ids = *ids,
                   .logprobs = std::vector<float>(ids->size(), 0.0f),
                   .origins = std::vector<rl::Origin>(ids->size(), rl::Origin::kInjected),
                   .text = {},
                   .version = version,
                   .kv_epoch = 0};
  s.tokens.insert(s.tokens.end(), ids->begin(), ids->end());
  s.origins.insert(s.origins.end(), ids->size(), rl::Origin::kInjected);
  s.logprobs.insert(s.logprobs.end(), ids->size(), 0.0f);
  s.AddSpan(version, static_cast<int32_t>(ids->size()));
  s.owner->sink->OnTokens(std::move(chunk));
}

void RunningBatch::End(Sequence& s) {
  const auto reason =
      s.stopped == StopCause::kStop ? rl::FinishReason::kStop : rl::FinishReason::kLength;
  s.owner->sink->OnFinished({.sample = s.sample,
                             .rollout = s.ToRollout(reason, clock_.Now()),
                             .text = s.text,
                             .stop_string = s.stop_string});
}

void RunningBatch::Fail(Sequence& s, const absl::Status& status, bool retryable,
                        rl::Outcome outcome) {
  if (s.sample < 0) {
    for (Group& g : groups_) {
      if (g.prompt.get() == &s) FailGroup(g, status, retryable, outcome);
    }
    return;
  }
  const auto reason = absl::IsDeadlineExceeded(status) ? rl::FinishReason::kDeadline
                      : absl::IsCancelled(status)      ? rl::FinishReason::kCancelled
                                                       : rl::FinishReason::kFailed;
  s.owner->sink->OnFailure({.sample = s.sample,
                            .status = status,
                            .retryable = retryable,
                            .outcome = outcome,
                            .partial = s.ToRollout(reason, clock_.Now())});
}

void RunningBatch::FailGroup(Group& g, const absl::Status& status, bool retryable,
                             rl::Outcome outcome) {
  g.prompt->stopped = StopCause::kLength;
  for (int32_t i = g.started; i < g.owner->request.n; ++i) {
    g.owner->sink->OnFailure({.sample = g.owner->request.first_sample + i,
                              .status = status,
                              .retryable = retryable,
                              .outcome = outcome,
                              .partial = {}});
  }
}

void RunningBatch::ReturnSlot(const RequestState& owner) {
  for (Group& g : groups_) {
    if (g.owner.get() == &owner && !g.slot_free) {
      g.slot_free = true;
      return;
    }
  }
  reserved_bytes_ -= owner.bytes_each;
}

void RunningBatch::DropStopped() {
  std::erase_if(running_, [&](const std::unique_ptr<Sequence>& s) {
    if (s->stopped == StopCause::kNone) return false;
    ReturnSlot(*s->owner);
    return true;
  });
  std::erase_if(groups_, [&](const Group& g) {
    if (g.prompt->stopped == StopCause::kNone) return false;
    reserved_bytes_ -=
        PromptBytes(g.owner->request, model_) + (g.slot_free ? g.owner->bytes_each : 0);
    return true;
  });
}

void RunningBatch::Sweep() {
  const absl::Time now = clock_.Now();
  const auto verdict = [&](const RequestState& owner) -> absl::Status {
    if (owner.cancelled) return owner.cancel_status;
    if (now >= owner.request.deadline)
      return absl::DeadlineExceededError("the request's deadline has passed");
    return absl::OkStatus();
  };
  DropStopped();  // whoever has had the last word gets no other
  for (Group& g : groups_) {
    const absl::Status status = verdict(*g.owner);
    if (!status.ok()) FailGroup(g, status, absl::IsInternal(status), OutcomeOf(status));
  }
  for (auto& s : running_) {
    const absl::Status status = verdict(*s->owner);
    if (status.ok()) continue;
    s->stopped = StopCause::kLength;
    Fail(*s, status, absl::IsInternal(status), OutcomeOf(status));
  }
  DropStopped();
}

Load RunningBatch::load() const {
  Load load{.running = static_cast<int32_t>(running_.size() + groups_.size()),
            .kv_bytes_free = limits_.kv_pool_bytes - reserved_bytes_};
  for (const auto& s : running_) {
    load.live_slots += s->cache->state().live_count();
    load.total_slots += s->processed();
  }
  return load;
}

}  // namespace palimpsest::inference
