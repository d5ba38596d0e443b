#include "services/inference/engine/running_batch.h"

#include <ATen/Parallel.h>

#include <algorithm>
#include <new>
#include <utility>

#include "common/context/log.h"
#include "services/inference/core/admission.h"

namespace palimpsest::inference {
RunningBatch::RunningBatch(const ModelInfo& model, const Limits& limits, const Tokenizer* tokenizer,
                           const EngineObserver& observer, Clock& clock, SessionTable& sessions,
                           StepDevice& device)
    : model_(model),
      limits_(limits),
      tokenizer_(tokenizer),
      observer_(observer),
      clock_(clock),
      sessions_(sessions),
      cost_(CostOf(model)),
      device_(device),
      pages_(limits.kv_pool_bytes / cost_.page_bytes),
      prefixes_(pages_) {}

std::unique_ptr<Sequence> RunningBatch::NewSequence(std::shared_ptr<RequestState> owner,
                                                    int32_t sample) {
  const GenerationRequest& r = owner->request;
  auto s = std::make_unique<Sequence>();
  s->sample = sample;
  s->prompt_tokens = s->response_begin = static_cast<int32_t>(r.prompt.size());
  s->tokens = r.prompt;
  s->origins.assign(r.prompt.size(), rl::Origin::kPrompt);
  s->logprobs.assign(r.prompt.size(), 0.0f);
  s->started = owner->arrived;
  s->last_token = owner->arrived;
  s->owner = std::move(owner);
  StartText(*s);
  return s;
}

// Resume has its log replayed.
std::unique_ptr<Sequence> RunningBatch::BegunSequence(std::shared_ptr<RequestState> owner,
                                                      const rl::Rollout& begun) {
  auto s = NewSequence(std::move(owner), begun.sample);
  s->StandAt(begun);
  s->started -= absl::Seconds(begun.seconds);
  for (size_t i = static_cast<size_t>(s->prompt_tokens); i < s->tokens.size(); ++i) {
    if (s->origins[i] != rl::Origin::kSampled) {
      s->since_message = 0;
      continue;
    }
    s->CountSampled(s->tokens[i]);
    TokenChunk told{.ids = {s->tokens[i]}};
    AcceptText(*s, told);
  }
  return s;
}

void RunningBatch::StartText(Sequence& s) const {
  if (!tokenizer_) return;
  s.decoder.emplace(tokenizer_, true);
  // The strings were checked at admission.
  s.stops = *StopStrings::Create(s.owner->request.sampling.stop_strings);
}

void RunningBatch::Step(PolicyVersion version) {
  const absl::Time begin = clock_.Now();
  version_ = version;
  Resume();
  OpenJobs();
  const std::vector<StepItem> items = PlanStep();
  WorkOnJobs(items.size());
  if (!items.empty()) RunPass(items, version);
  StartSamples();
  DropStopped();
  if (limits_.check_pages) CheckPages();
  int rows = 0;
  for (const StepItem& item : items) rows += item.count;
  observer_.step(absl::ToDoubleSeconds(clock_.Now() - begin), rows);
}

void RunningBatch::RunPass(const std::vector<StepItem>& items, PolicyVersion version) {
  int32_t decoded = 0, prefilled = 0;
  for (const StepItem& item : items)
    (item.sequence->pending() == 1 ? decoded : prefilled) += item.count;
  const absl::Time begin = clock_.Now();
  TakeLogits(RunStep(device_, items), items, version);
  times_.AddPass(absl::ToDoubleSeconds(clock_.Now() - begin), decoded, prefilled);
}

// What falls due before the pending token: an event of the log that a rebuilt cache has yet to see,
// or else what the policy decides. False when the policy has no room left.
bool RunningBatch::Consider(Sequence& s, std::vector<DueEvent>& due) {
  s.waits = false;
  if (!s.cache || s.in_event || s.pending() == 0) return true;
  if (const context::Event* forced = s.NextInLog()) {
    if (forced->at == s.processed()) due.push_back({.sequence = &s, .forced = forced});
    return true;
  }
  if (s.compacts_only()) {
    if (s.runnable() == 0) ConsiderAsked(s, due);
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
    for (; !g.to_start.empty(); g.to_start.pop_front()) {
      auto s = NewSequence(g.owner, g.to_start.front());
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

double RunningBatch::WaitingForEvents() const {
  double waiting = 0;
  for (const EventJob& job : jobs_) waiting += job.events();
  return waiting;
}

// How many events go side by side: as many as do a layer in a slice when others decode in between,
// all when nobody does.
size_t RunningBatch::JobSize(const std::vector<DueEvent>& due) const {
  size_t decoding = 0;  // those in `due` among them
  for (const auto& s : running_) decoding += s->has_rows();
  for (const Group& g : groups_) decoding += g.prompt->has_rows();
  const auto falls_due = static_cast<double>(due.size());
  const double others = static_cast<double>(decoding) - falls_due;
  if (others <= 0) return running_.size() + groups_.size();
  const double seconds = times_.Slice(WaitingForEvents() + falls_due, others);
  return static_cast<size_t>(std::max(1.0, times_.HeadsIn(seconds) / model_.kv_heads));
}

// Of the log and new ones apart: only the latter are measured. What falls due joins the last job
// that nobody works at yet, so that those who wait are served side by side.
void RunningBatch::OpenJobs() {
  std::vector<DueEvent> due = FindDueEvents();
  LetWait(due);
  MakeRoom([&] {
    std::erase_if(due, [](const DueEvent& d) { return !d.sequence->cache; });
    int64_t pages = 0;
    for (const DueEvent& d : due) pages += d.sequence->cache->PagesToOwn(d.window());
    return pages * cost_.page_bytes;
  });
  const size_t most = JobSize(due);
  std::stable_partition(due.begin(), due.end(), [](const DueEvent& d) { return d.forced; });
  for (const DueEvent& d : due) {
    const bool joins = !jobs_.empty() && jobs_.back().Takes(d) &&
                       jobs_.back().events() < static_cast<double>(most);
    if (joins) {
      jobs_.back().Add(d);
    } else {
      jobs_.emplace_back(d, device_, clock_);
    }
  }
}

// Slice by slice, in the order of opening: for their share of a step when others decode in between
// (`decoding` of them), to the end when nobody does. A slice that takes longer than the share is
// paid for by later steps.
void RunningBatch::WorkOnJobs(size_t decoding) {
  const bool others_decode = decoding > 0;
  const double waiting = WaitingForEvents(), others = static_cast<double>(decoding);
  event_credit_.BeginStep(others_decode ? times_.ForEvents(waiting, others) : 0);
  while (!jobs_.empty() && (!others_decode || event_credit_.Left())) {
    EventJob& job = jobs_.front();
    const absl::Time begin = clock_.Now();
    if (!job.done()) {
      double heads = model_.kv_heads;
      if (others_decode) {
        heads = std::min(heads, times_.HeadsIn(times_.Slice(waiting, others)) / job.events());
      }
      job.Solve(std::max(1, static_cast<int>(heads)));
    }
    if (job.done()) {
      CloseJob(job);
      jobs_.pop_front();
    }
    event_credit_.Spend(absl::ToDoubleSeconds(clock_.Now() - begin));
  }
  DropStopped();
}

void RunningBatch::CloseJob(EventJob& job) {
  if (job.seconds_per_head() > 0) times_.AddEvent(job.seconds_per_head());
  for (const auto& [due, status] : job.Finish()) {
    Sequence& s = *due.sequence;
    if (!status.ok()) {
      s.stopped = StopCause::kLength;
      const bool refused = absl::IsInvalidArgument(status);  // and would be again
      Fail(s, status, !refused, refused ? rl::Outcome::kCancelled : rl::Outcome::kInfraFailed);
      continue;
    }
    if (due.forced) continue;
    observer_.compaction(due.draft.method, s.events.back().seconds);
    if (due.early_pages) observer_.compacted_early();
    if (s.sample < 0) continue;
    s.owner->sink->OnEvent(s.sample, s.events.back());
    if (s.compacts_only()) {
      s.stopped = StopCause::kLength;
      End(s);
      continue;
    }
    const auto& messages = s.owner->request.budget_messages;
    if (messages && messages->at_events && s.origins.back() == rl::Origin::kSampled)
      Inject(s, version_);
  }
}

std::vector<StepItem> RunningBatch::PlanStep() {
  std::vector<StepItem> items;
  const bool others_decode = std::any_of(running_.begin(), running_.end(), [](const auto& s) {
    return s->has_rows() && s->pending() == 1;
  });
  int32_t prefill =
      others_decode ? times_.PromptRows(limits_.prefill_tokens) : limits_.prefill_tokens;
  const auto plan = [&](Sequence& s) {
    if (!s.has_rows()) return;
    const int32_t count = s.runnable() == 1 ? 1 : ChunkBeforeNextEvent(s, prefill);
    if (s.runnable() > 1) prefill -= count;
    if (count > 0) items.push_back({.sequence = &s, .count = count});
  };
  for (auto& s : running_) plan(*s);
  for (Group& g : groups_) plan(*g.prompt);
  MakeRoomEarly(items);
  MakeRoom([&] { return BytesToReserve(items); });
  return items;
}

void RunningBatch::TakeLogits(const StepOutput& output, const std::vector<StepItem>& items,
                              PolicyVersion version) {
  const size_t vocab = static_cast<size_t>(model_.vocab);
  const auto logits = [&](size_t i) { return output.logits.subspan(i * vocab, vocab); };
  const auto sequence = [&](size_t i) -> Sequence& {
    return *items[output.with_logits[i]].sequence;
  };
  std::vector<Draw> draws(output.with_logits.size());
  at::parallel_for(0, std::ssize(draws), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (sequence(i).sample >= 0) draws[i] = DrawNext(sequence(i), logits(i));
    }
  });
  for (size_t i = 0; i < draws.size(); ++i) {
    Sequence& s = sequence(i);
    if (s.sample >= 0) {
      Accept(s, draws[i], version);
      continue;
    }
    for (Group& g : groups_) {
      if (g.prompt.get() != &s) continue;
      g.logits.assign(logits(i).begin(), logits(i).end());
      g.logits_version = version;
      KeepPrefix(s);
      observer_.tokens(static_cast<int>(s.tokens.size()), 0);
    }
  }
}

void RunningBatch::StartSamples() {
  for (auto g = groups_.begin(); g != groups_.end();) {
    const GenerationRequest& r = g->owner->request;
    while (!g->logits.empty() && !g->to_start.empty() &&
           static_cast<int64_t>(running_.size()) < limits_.max_running &&
           (running_.empty() ||
            RoomFor(QueryBytes(r, model_) + g->prompt->cache->carried_bytes() + Headroom()))) {
      std::unique_ptr<SequenceCache> cache;
      try {
        cache = g->prompt->cache->Fork();
      } catch (const std::bad_alloc& error) {  // a device's memory for recorded queries
        FailGroup(*g, absl::ResourceExhaustedError(error.what()), true, rl::Outcome::kInfraFailed);
        g->to_start.clear();
        break;
      }
      auto s = NewSequence(g->owner, g->to_start.front());
      g->to_start.pop_front();
      s->cache = std::move(cache);
      s->events = g->prompt->events;
      s->events_in_cache = s->events.size();
      s->prompt_logprobs = g->prompt->prompt_logprobs;
      s->prompt_top = g->prompt->prompt_top;
      for (const context::Event& e : s->events) s->owner->sink->OnEvent(s->sample, e);
      running_.push_back(std::move(s));
      Sequence& begun = *running_.back();
      Accept(begun, DrawNext(begun, g->logits), g->logits_version);
    }
    g = g->to_start.empty() ? groups_.erase(g) : std::next(g);
  }
}

}  // namespace palimpsest::inference
