#include "services/inference/engine/session_table.h"

#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "services/inference/core/admission.h"
#include "services/inference/core/begun.h"

namespace palimpsest::inference {
namespace {

constexpr size_t kRememberGone = 1024;

std::unique_ptr<Sequence> WithPrompt(const std::vector<int32_t>& prompt) {
  auto s = std::make_unique<Sequence>();
  s->sample = 0;
  s->prompt_tokens = static_cast<int32_t>(prompt.size());
  s->tokens = prompt;
  s->origins.assign(prompt.size(), rl::Origin::kPrompt);
  s->logprobs.assign(prompt.size(), 0.0f);
  return s;
}

// How its last token was drawn, as far as the log tells; mixed_sampling knows the rest.
std::optional<rl::SamplingParams> LastDrawn(const rl::Rollout& log) {
  if (std::find(log.origins.begin(), log.origins.end(), rl::Origin::kSampled) == log.origins.end())
    return std::nullopt;
  return rl::SamplingParams{.temperature = log.greedy ? 0 : log.temperature};
}

}  // namespace

absl::Status SessionTable::CheckRoom(size_t more) const {
  if (open_.size() + more <= static_cast<size_t>(limits_.max_sessions)) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrFormat("%d sessions asked for, %d of max_sessions=%d are open", more, open_.size(),
                      limits_.max_sessions));
}

absl::StatusOr<SessionTable::Entry*> SessionTable::Find(const std::string& id) {
  if (const auto it = open_.find(id); it != open_.end()) return &it->second;
  for (const auto& [gone, cause] : gone_) {
    if (gone == id)
      return absl::NotFoundError(absl::StrFormat("session_id=%s was deleted: %s", id, cause));
  }
  return absl::NotFoundError(absl::StrFormat("session_id=%s is not known here", id));
}

std::string SessionTable::NewId() {
  return absl::StrFormat("s%016x", MixSeed({nonce_, Meaning("session"), made_++}));
}

SessionInfo SessionTable::Describe(const std::string& id, const Entry& e) const {
  const Sequence& s = *e.sequence;
  return {.id = id,
          .client = e.spec.client,
          .tokens = static_cast<int32_t>(s.tokens.size()),
          .turns = static_cast<int32_t>(s.turn_begins.size()),
          .events = static_cast<int32_t>(s.events.size()),
          .live_count = s.cache ? s.cache->state().live_count() : 0,
          .idle = e.busy ? absl::ZeroDuration() : clock_.Now() - e.used,
          .ttl = TtlOf(e),
          .resident = s.cache != nullptr,
          .busy = e.busy};
}

absl::StatusOr<SessionInfo> SessionTable::Create(SessionSpec spec) {
  for (const auto& [id, entry] : open_) {
    if (!entry.forked_from.empty() || entry.spec.request_id != spec.request_id) continue;
    if (entry.spec == spec) return Describe(id, entry);
    return absl::AlreadyExistsError(
        absl::StrFormat("request_id=%s made session %s, of another content", spec.request_id, id));
  }
  RETURN_IF_ERROR(CheckRoom(1));
  std::unique_ptr<Sequence> s = WithPrompt(spec.prompt);
  const std::string id = NewId();
  Entry& e = open_[id];
  e = {.spec = std::move(spec), .sequence = s.get(), .used = clock_.Now()};
  if (const auto& begun = e.spec.begun) {
    s->StandAt(*begun);
    s->turn_begins = TurnsOf(*begun);
    e.last_stop =
        begun->finish_reason == rl::FinishReason::kStop ? StopCause::kStop : StopCause::kLength;
    e.last_drawn = LastDrawn(*begun);
  }
  e.resting = std::move(s);
  return Describe(id, e);
}

std::map<size_t, std::string> SessionTable::ForksOf(const std::string& request_id,
                                                    const std::string& id) const {
  std::map<size_t, std::string> forks;
  for (const auto& [fork, entry] : open_) {
    if (entry.forked_from == id && entry.spec.request_id == request_id) forks[entry.fork] = fork;
  }
  return forks;
}

absl::StatusOr<std::vector<SessionInfo>> SessionTable::Fork(const std::string& request_id,
                                                            const std::string& id,
                                                            const std::vector<uint64_t>& seeds) {
  std::vector<SessionInfo> forks;
  if (const auto made = ForksOf(request_id, id); !made.empty()) {
    std::vector<uint64_t> made_seeds;
    for (const auto& [i, fork] : made) {
      forks.push_back(Describe(fork, open_.at(fork)));
      made_seeds.push_back(open_.at(fork).spec.seed);
    }
    if (made_seeds == seeds) return forks;
    return absl::AlreadyExistsError(absl::StrFormat(
        "request_id=%s made %d forks of %s, with other seeds", request_id, made.size(), id));
  }
  ASSIGN_OR_RETURN(const Entry* origin, Find(id));
  if (origin->busy)
    return absl::AbortedError(absl::StrFormat("session_id=%s: a step of it runs", id));
  RETURN_IF_ERROR(CheckRoom(seeds.size()));
  std::vector<std::unique_ptr<Sequence>> sequences;  // all, or a device had no memory for one
  for (size_t i = 0; i < seeds.size(); ++i) sequences.push_back(origin->resting->Fork());
  for (size_t i = 0; i < seeds.size(); ++i) {
    const std::string fork = NewId();
    std::unique_ptr<Sequence> s = std::move(sequences[i]);
    Entry& e = open_[fork];
    e = {.spec = origin->spec,
         .forked_from = id,
         .fork = i,
         .sequence = s.get(),
         .last_stop = origin->last_stop,
         .last_drawn = origin->last_drawn,
         .used = clock_.Now()};
    e.spec.seed = seeds[i];
    e.spec.request_id = request_id;
    e.spec.begun.reset();  // what it stands at is in its sequence
    e.resting = std::move(s);
    forks.push_back(Describe(fork, e));
  }
  return forks;
}

std::vector<SessionInfo> SessionTable::List(const std::string& client) const {
  std::vector<SessionInfo> sessions;
  for (const auto& [id, entry] : open_) {
    if (client.empty() || entry.spec.client == client) sessions.push_back(Describe(id, entry));
  }
  return sessions;
}

void SessionTable::Bury(const std::string& id, std::string cause) {
  open_.erase(id);
  gone_.emplace_back(id, std::move(cause));
  if (gone_.size() > kRememberGone) gone_.pop_front();
}

bool SessionTable::Delete(const std::string& id) {
  if (!open_.contains(id)) return false;
  Bury(id, "as it was asked");
  return true;
}

absl::Status SessionTable::Begin(GenerationRequest& step, bool has_tokenizer) {
  SessionStep& asked = *step.step;
  ASSIGN_OR_RETURN(Entry * e, Find(asked.id));
  if (e->busy)
    return absl::AbortedError(absl::StrFormat("session_id=%s: a step of it runs", asked.id));
  const Sequence& s = *e->resting;
  if (asked.expected_tokens != std::ssize(s.tokens)) {
    return absl::FailedPreconditionError(
        absl::StrFormat("expected_tokens=%d, but session %s has %d", asked.expected_tokens,
                        asked.id, s.tokens.size()));
  }
  if (asked.compact && !std::holds_alternative<context::Manual>(e->spec.context.trigger)) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "session_id=%s: its trigger is not manual, events are not asked for", asked.id));
  }
  if (!asked.compact && step.prompt.empty() && e->last_stop == StopCause::kStop) {
    return absl::FailedPreconditionError(
        "new_ids is empty, but the last step ended with a stop: there is nothing to go on with");
  }
  step.n = 1;
  step.first_sample = 0;
  step.client = e->spec.client;
  step.context = e->spec.context;
  step.sampling.seed = e->spec.seed;
  asked.prompt_tokens =
      s.tokens.empty() ? static_cast<int32_t>(step.prompt.size()) : s.prompt_tokens;
  step.prompt.insert(step.prompt.begin(), s.tokens.begin(), s.tokens.end());
  RETURN_IF_ERROR(CheckRequest(step, model_, limits_, has_tokenizer));
  e->busy = true;
  return absl::OkStatus();
}

std::unique_ptr<Sequence> SessionTable::Take(std::shared_ptr<RequestState> step,
                                             PolicyVersion version) {
  Entry& e = open_.at(step->request.step->id);
  std::unique_ptr<Sequence> s = std::move(e.resting);
  const GenerationRequest& r = step->request;
  const auto fresh = static_cast<int32_t>(r.prompt.size() - s->tokens.size());
  const bool first = s->tokens.empty();
  s->BeginStep();
  if (!r.step->compact) s->turn_begins.push_back(s->step_begin);
  s->tokens = r.prompt;
  s->origins.resize(s->tokens.size(), first ? rl::Origin::kPrompt : rl::Origin::kInjected);
  s->logprobs.resize(s->tokens.size(), 0.0f);
  s->response_begin = static_cast<int32_t>(s->tokens.size());
  s->prompt_tokens = r.step->prompt_tokens;
  if (fresh > 0 && !first) s->AddSpan(version, fresh);
  if (const auto& drawn = e.last_drawn; drawn && !r.step->compact) {
    s->mixed_sampling |=
        rl::ChangesDistribution(*drawn) || drawn->temperature != r.sampling.temperature;
  }
  s->started = s->last_token = step->arrived;
  s->owner = std::move(step);
  return s;
}

void SessionTable::Rest(std::unique_ptr<Sequence> s) {
  const auto it = open_.find(s->owner->request.step->id);
  // A deleted session's id is never given again, so an entry of this id is the sequence's own.
  if (it == open_.end()) return;
  Entry& e = it->second;
  if (!s->compacts_only()) {
    e.last_stop = s->stopped;
    if (s->sampled > 0) e.last_drawn = s->owner->request.sampling;
  }
  s->owner = nullptr;
  e.busy = false;
  e.used = clock_.Now();
  e.resting = std::move(s);
}

void SessionTable::Release(const std::string& id) {
  if (const auto it = open_.find(id); it != open_.end()) it->second.busy = false;
}

void SessionTable::DeleteIdle() {
  const absl::Time now = clock_.Now();
  std::vector<std::pair<std::string, absl::Duration>> late;
  for (const auto& [id, e] : open_) {
    if (!e.busy && now - e.used >= TtlOf(e)) late.emplace_back(id, TtlOf(e));
  }
  for (const auto& [id, ttl] : late) {
    Bury(id,
         absl::StrFormat("it was idle for longer than its ttl of %s", absl::FormatDuration(ttl)));
  }
}

bool SessionTable::LoseIdlest(const std::string& not_of) {
  Sequence* idlest = nullptr;
  absl::Time used = absl::InfiniteFuture();
  for (const auto& [id, e] : open_) {
    if (!e.resting || !e.resting->cache || id == not_of || e.used >= used) continue;
    idlest = e.resting.get();
    used = e.used;
  }
  if (idlest) idlest->LoseCache();
  return idlest != nullptr;
}

void SessionTable::LoseAll() {
  while (LoseIdlest()) {
  }
}

const SequenceCache* SessionTable::CacheOf(const std::string& id) const {
  const auto it = open_.find(id);
  return it == open_.end() || !it->second.resting ? nullptr : it->second.resting->cache.get();
}

int64_t SessionTable::bytes_beside_pages() const {
  int64_t bytes = 0;
  for (const auto& [id, e] : open_) {
    if (e.resting && e.resting->cache) bytes += e.resting->cache->bytes_beside_pages();
  }
  return bytes;
}

void SessionTable::AddTables(std::vector<std::span<const int32_t>>& tables) const {
  for (const auto& [id, e] : open_) {
    if (e.resting && e.resting->cache) tables.push_back(e.resting->cache->table());
  }
}

}  // namespace palimpsest::inference
