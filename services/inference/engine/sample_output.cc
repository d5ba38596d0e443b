#include <algorithm>
#include <cmath>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "services/inference/core/admission.h"
#include "services/inference/core/sampler.h"
#include "services/inference/engine/running_batch.h"

// What callers hear of a batch: drawn tokens, injected messages, and the last words.
namespace palimpsest::inference {
namespace {

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
  return IsOfInfrastructure(status) ? rl::Outcome::kInfraFailed : rl::Outcome::kCancelled;
}

}  // namespace

Draw RunningBatch::DrawNext(const Sequence& s, std::span<const float> logits) {
  const rl::SamplingParams& p = s.owner->request.sampling;
  const auto position = static_cast<int32_t>(s.tokens.size());
  const double u = Uniform01(p.seed, s.sample, position);
  return SampleToken(logits, p, s.counts, s.owner->prompt_counts, u);
}

void RunningBatch::Accept(Sequence& s, const Draw& draw, PolicyVersion version) {
  const rl::SamplingParams& p = s.owner->request.sampling;
  const auto position = static_cast<int32_t>(s.tokens.size());
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
  s.CountSampled(draw.token);
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
                   .kv_epoch = s.kv_epoch};
  if (p.top_logprobs) chunk.top.push_back(draw.top);
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
    const std::vector<int32_t> sampled(s.tokens.begin() + s.response_begin, s.tokens.end());
    const auto whole = tokenizer_->Decode(sampled, true);
    if (whole.ok()) s.stop_string = FirstStop(*whole, s.owner->request.sampling.stop_strings);
  }
}

void RunningBatch::Inject(Sequence& s, PolicyVersion version) {
  const rl::BudgetMessages& m = *s.owner->request.budget_messages;
  const int32_t budget = m.total > 0 ? m.total : s.owner->request.sampling.max_tokens.value_or(0);
  const auto ids = tokenizer_->Encode(RenderMessage(m, s.sampled, budget));
  s.since_message = 0;  // also of one that is left out: it is not tried again at each token
  // A message that would not leave a position for an answer is left out.
  if (!ids.ok() || static_cast<int64_t>(s.tokens.size() + ids->size()) >= model_.max_position)
    return;
  TokenChunk chunk{.sample = s.sample,
                   .begin = static_cast<int32_t>(s.tokens.size()),
                   .ids = *ids,
                   .logprobs = std::vector<float>(ids->size(), 0.0f),
                   .origins = std::vector<rl::Origin>(ids->size(), rl::Origin::kInjected),
                   .text = {},
                   .version = version,
                   .kv_epoch = s.kv_epoch};
  if (s.owner->request.sampling.top_logprobs) chunk.top.resize(ids->size());
  s.tokens.insert(s.tokens.end(), ids->begin(), ids->end());
  s.origins.insert(s.origins.end(), ids->size(), rl::Origin::kInjected);
  s.logprobs.insert(s.logprobs.end(), ids->size(), 0.0f);
  s.AddSpan(version, static_cast<int32_t>(ids->size()));
  s.owner->sink->OnTokens(std::move(chunk));
}

void RunningBatch::End(Sequence& s) {
  const auto reason =
      s.stopped == StopCause::kStop ? rl::FinishReason::kStop : rl::FinishReason::kLength;
  KeepPrefix(s);
  s.owner->sink->OnFinished({.sample = s.sample,
                             .rollout = s.ToRollout(reason, clock_.Now()),
                             .text = s.text,
                             .stop_string = s.stop_string,
                             .prompt_logprobs = s.prompt_logprobs,
                             .prompt_top = s.prompt_top});
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
  for (const int32_t sample : g.to_start) {
    g.owner->sink->OnFailure({.sample = sample,
                              .status = status,
                              .retryable = retryable,
                              .outcome = outcome,
                              .partial = {}});
  }
}

// Who stops in the middle of an event leaves a cache of which some layers are rewritten.
void RunningBatch::DropStopped() {
  const auto stopped = [](Sequence& s) {
    if (s.stopped != StopCause::kNone && s.in_event) s.LoseCache();
    return s.stopped != StopCause::kNone;
  };
  for (auto& s : running_) stopped(*s);
  for (Group& g : groups_) stopped(*g.prompt);
  for (EventJob& job : jobs_) job.DropLost();
  DropStopped(running_);
  DropStopped(preempted_);
  std::erase_if(groups_, [&](const Group& g) { return stopped(*g.prompt); });
}

void RunningBatch::DropStopped(std::vector<std::unique_ptr<Sequence>>& list) {
  for (auto& s : list) {
    if (s->stopped != StopCause::kNone && s->owner->request.step) sessions_.Rest(std::move(s));
  }
  std::erase_if(list, [](const auto& s) { return !s || s->stopped != StopCause::kNone; });
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
    if (!status.ok()) FailGroup(g, status, IsOfInfrastructure(status), OutcomeOf(status));
  }
  for (auto* list : {&running_, &preempted_}) {
    for (auto& s : *list) {
      const absl::Status status = verdict(*s->owner);
      if (status.ok()) continue;
      s->stopped = StopCause::kLength;
      Fail(*s, status, IsOfInfrastructure(status), OutcomeOf(status));
    }
  }
  DropStopped();
}

}  // namespace palimpsest::inference
