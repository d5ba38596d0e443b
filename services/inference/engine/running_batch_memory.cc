#include <algorithm>
#include <stdexcept>

#include "absl/strings/str_format.h"
#include "services/inference/core/admission.h"
#include "services/inference/core/begun.h"
#include "services/inference/engine/running_batch.h"

// Who has memory: admission by what is free, the youngest gives way, and comes back by its log.
namespace palimpsest::inference {
namespace {

bool Older(const std::unique_ptr<Sequence>& a, const std::unique_ptr<Sequence>& b) {
  return a->Age() < b->Age();
}

}  // namespace

int64_t RunningBatch::FreeBytes() const {
  int64_t used = (pages_.pages() - pages_.free_pages() - pages_.idle_pages()) * cost_.page_bytes;
  for (const Group& g : groups_)
    used += g.prompt->cache ? g.prompt->cache->bytes_beside_pages() : 0;
  for (const auto& s : running_) used += s->cache->bytes_beside_pages();
  used += sessions_.bytes_beside_pages();
  return limits_.kv_pool_bytes - used;
}

int64_t RunningBatch::Unpromised() const {
  int64_t pages = 0;
  const auto promise = [&](const Sequence& s) {
    if (!s.cache || s.pending() <= 1) return;
    const int64_t slots =
        std::min<int64_t>(std::ssize(s.tokens), SlotsNeeded(s.owner->request, model_.max_position));
    pages += std::max<int64_t>(0, PagesFor(slots) - std::ssize(s.cache->table()));
  };
  for (const Group& g : groups_) promise(*g.prompt);
  for (const auto& s : running_) promise(*s);
  return FreeBytes() - pages * cost_.page_bytes;
}

int64_t RunningBatch::Headroom() const {
  return static_cast<int64_t>(running_.size() + 1) * cost_.page_bytes;
}

int64_t RunningBatch::ToStay() const {
  int64_t pages = 1;
  for (const auto& s : running_) {
    const GenerationRequest& r = s->owner->request;
    const bool bounded = std::holds_alternative<context::KvBudget>(r.context.trigger);
    const int64_t most = bounded ? PagesFor(SlotsNeeded(r, model_.max_position)) : 0;
    pages += std::max<int64_t>(1, most - std::ssize(s->cache->table()));
  }
  return pages * cost_.page_bytes;
}

// Resting sessions let go of their KV, the idlest first, until `bytes` are there or none has any.
bool RunningBatch::RoomFor(int64_t bytes, const std::string& not_of) {
  while (Unpromised() < bytes) {
    if (!sessions_.LoseIdlest(not_of)) return false;
  }
  return true;
}

bool RunningBatch::MakeRoomFor(const GenerationRequest& r) {
  if (static_cast<int64_t>(running_.size() + groups_.size()) >= limits_.max_running ||
      !preempted_.empty()) {
    return false;
  }
  const auto tokens = static_cast<int32_t>(r.prompt.size());
  if (!r.step) return RoomFor(RebuildBytes(r, tokens, model_) + Headroom());
  if (const SequenceCache* cache = sessions_.CacheOf(r.step->id)) {
    const int64_t pages = cache->PagesToReserve(tokens - cache->state().processed());
    if (RoomFor(pages * cost_.page_bytes + Headroom(), r.step->id)) return true;
  }
  // Alone it may take all that there is: admission has counted what it needs to its end.
  const bool alone = running_.empty() && groups_.empty();
  return RoomFor(RebuildBytes(r, tokens, model_) + (alone ? 0 : Headroom()));
}

void RunningBatch::KeepBound() {
  while (FreeBytes() < 0 && sessions_.LoseIdlest()) {
  }
}

void RunningBatch::Admit(std::shared_ptr<RequestState> owner, PolicyVersion version) {
  if (owner->request.sampling.repetition_penalty != 1) {
    for (int32_t id : owner->request.prompt) ++owner->prompt_counts[id];
  }
  owner->order = admitted_++;
  if (owner->request.step) return AdmitStep(std::move(owner), version);
  const GenerationRequest& r = owner->request;
  for (const rl::Rollout& begun : r.begun) preempted_.push_back(BegunSequence(owner, begun));
  const std::vector<int32_t> to_start = SamplesToStart(r);
  if (to_start.empty()) return;
  groups_.push_back({.owner = owner,
                     .prompt = NewSequence(owner, -1),
                     .to_start = {to_start.begin(), to_start.end()}});
  groups_.back().prompt->cache = NewCache(owner->request);
  AdoptPrefix(*groups_.back().prompt);
}

// Pages that an earlier prompt left, as far as they cannot change an event: none falls due among
// them, and none will listen to their queries, which nobody recorded.
void RunningBatch::AdoptPrefix(Sequence& s) {
  const GenerationRequest& r = s.owner->request;
  if (!limits_.prefix_cache || r.sampling.prompt_logprobs) return;
  const int32_t before_last = s.pending() - 1;  // whose logits are to be made
  const int32_t most = std::min(context::RecordQueriesFrom(r.context, s.PolicyView()),
                                ChunkBeforeNextEvent(s, before_last));
  const std::vector<int32_t> pages = prefixes_.Find(s.tokens, std::max(0, most) / kPageSlots);
  s.cache->Adopt(pages);
  if (!pages.empty()) observer_.prefix_hit(static_cast<int>(pages.size()) * kPageSlots);
}

// Full pages of uncompacted tokens, made by the live weights alone.
void RunningBatch::KeepPrefix(const Sequence& s) {
  if (!limits_.prefix_cache || !s.cache || s.in_event || !s.events.empty() ||
      s.cache->flips() != flips_) {
    return;
  }
  prefixes_.Insert(s.tokens, s.cache->table().first(s.processed() / kPageSlots));
}

// A session goes on: no prompt of its own to be shared, so it runs at once.
void RunningBatch::AdmitStep(std::shared_ptr<RequestState> owner, PolicyVersion version) {
  std::unique_ptr<Sequence> s = sessions_.Take(owner, version);
  if (!s->cache) {
    s->cache = NewCache(owner->request);
    if (s->events.empty()) AdoptPrefix(*s);
  }
  observer_.tokens(s->response_begin - s->step_begin, 0);
  StartText(*s);
  running_.push_back(std::move(s));
}

std::unique_ptr<SequenceCache> RunningBatch::NewCache(const GenerationRequest& r) {
  const int32_t recorded = RecordedPositions(r, model_.max_position);
  const bool keys = r.context.parameters.reference_kind == context::ReferenceKind::kKeys;
  QueryStore queries =
      recorded > 0 ? QueryStore(device_.NewRing(recorded, keys), recorded, QueryBytes(r, model_))
                   : QueryStore();
  auto cache = std::make_unique<SequenceCache>(
      pages_, device_, context::Shape{model_.layers, model_.kv_heads}, std::move(queries), flips_);
  if (CarriesImportance(r)) cache->CarryImportance();
  return cache;
}

void RunningBatch::LoseCache(Sequence& s) {
  s.LoseCache();
  for (EventJob& job : jobs_) job.DropLost();
}

// The youngest sequence that has memory and is younger than `than` (null: whichever it is) gives it
// back. False when there is none, or nobody else would be left.
bool RunningBatch::PreemptYoungest(const Sequence* than) {
  auto sample = std::max_element(running_.begin(), running_.end(), Older);
  Group* group = nullptr;
  int64_t holders = static_cast<int64_t>(running_.size());
  for (Group& g : groups_) {
    if (!g.prompt->cache) continue;
    ++holders;
    if (!group || Older(group->prompt, g.prompt)) group = &g;
  }
  if (holders == 0 || (holders == 1 && !than)) return false;
  const bool is_group = sample == running_.end() || (group && Older(*sample, group->prompt));
  const Sequence& youngest = is_group ? *group->prompt : **sample;
  if (than && youngest.Age() < than->Age()) return false;
  observer_.preempted();
  if (is_group) {
    LoseCache(*group->prompt);
    group->logits.clear();
    return true;
  }
  LoseCache(**sample);
  preempted_.push_back(std::move(*sample));
  running_.erase(sample);
  return true;
}

// Until `bytes()` are there. Whoever gives way is no longer asked for.
void RunningBatch::MakeRoom(const std::function<int64_t()>& bytes) {
  while (bytes() > FreeBytes()) {
    if (sessions_.LoseIdlest()) continue;
    if (PreemptYoungest(nullptr)) continue;
    throw std::logic_error(absl::StrFormat(
        "the KV pool has %d bytes free, one sequence needs %d more: admission was wrong",
        FreeBytes(), bytes()));
  }
  FreePages((bytes() + cost_.page_bytes - 1) / cost_.page_bytes);
}

// An event needs pages of its own for those that its sequence shares. Who finds none, the younger
// ones first, stands still while others make their events, which let go of pages in the end:
// samples of one prompt all share it, and their first events fall due in one step. Only when no
// event is open has anybody to give way.
void RunningBatch::LetWait(std::vector<DueEvent>& due) {
  if (due.empty()) return;
  std::stable_sort(due.begin(), due.end(), [](const DueEvent& a, const DueEvent& b) {
    return a.sequence->Age() < b.sequence->Age();
  });
  int64_t left = FreeBytes();
  bool open = !jobs_.empty();
  std::erase_if(due, [&](const DueEvent& d) {
    const int64_t bytes = d.sequence->cache->PagesToOwn(d.window()) * cost_.page_bytes;
    d.sequence->waits = open && bytes > left;
    if (d.sequence->waits) return true;
    left -= bytes;
    open = true;
    return false;
  });
}

// Of those that nobody would miss, until so many are free.
void RunningBatch::FreePages(int64_t pages) {
  while (pages_.free_pages() < pages && prefixes_.LoseOldest()) {
  }
}

// Whoever lost its memory comes back, the oldest first; for it the younger ones make room. It comes
// to stay: what is free between two events of others is not taken for room, its log would be
// replayed for a few tokens.
void RunningBatch::Resume() {
  for (;;) {
    const auto sample = std::min_element(preempted_.begin(), preempted_.end(), Older);
    Group* group = nullptr;
    for (Group& g : groups_) {
      if (!g.prompt->cache && (!group || Older(g.prompt, group->prompt))) group = &g;
    }
    const bool is_group = sample == preempted_.end() || (group && Older(group->prompt, *sample));
    if (is_group && !group) return;
    if (!is_group && std::ssize(running_) >= limits_.max_running) return;
    Sequence& next = is_group ? *group->prompt : **sample;
    const GenerationRequest& r = next.owner->request;
    const int64_t bytes = RebuildBytes(r, static_cast<int32_t>(next.tokens.size()), model_);
    while (!RoomFor(bytes + ToStay()) && PreemptYoungest(&next)) {
    }
    if (Unpromised() < bytes + (running_.empty() ? 0 : ToStay())) return;
    next.cache = NewCache(r);
    if (is_group) continue;
    // By address: giving way above may have moved what `sample` pointed to.
    const auto found = std::find_if(preempted_.begin(), preempted_.end(),
                                    [&](const auto& s) { return s.get() == &next; });
    running_.push_back(std::move(*found));
    preempted_.erase(found);
  }
}

void RunningBatch::NewWeights(WeightsMode mode) {
  ++flips_;
  prefixes_.Clear();
  if (mode == WeightsMode::kRecompute) Recompute();
  if (mode != WeightsMode::kKeep) sessions_.LoseAll();
}

void RunningBatch::Recompute() {
  for (auto& s : running_) {
    LoseCache(*s);
    s->cache = NewCache(s->owner->request);
  }
  for (Group& g : groups_) {
    if (!g.prompt->cache) continue;
    LoseCache(*g.prompt);
    g.logits.clear();
    g.prompt->cache = NewCache(g.owner->request);
  }
}

void RunningBatch::CheckPages() const {
  std::vector<std::span<const int32_t>> tables;
  for (const Group& g : groups_) {
    if (g.prompt->cache) tables.push_back(g.prompt->cache->table());
  }
  for (const auto& s : running_) tables.push_back(s->cache->table());
  sessions_.AddTables(tables);
  const absl::Status status = pages_.Check(tables);
  if (!status.ok()) throw std::logic_error(std::string(status.message()));
}

Load RunningBatch::load() const {
  Load load{.running = static_cast<int32_t>(running_.size() + groups_.size()),
            .preempted = static_cast<int32_t>(preempted_.size()),
            .sessions = sessions_.size(),
            .kv_bytes_free = FreeBytes()};
  for (const auto& s : running_) {
    load.live_slots += s->cache->state().live_count();
    load.total_slots += s->processed();
    load.kv_behind = std::max(load.kv_behind, flips_ - s->cache->flips());
  }
  return load;
}

}  // namespace palimpsest::inference
