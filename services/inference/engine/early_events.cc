#include <algorithm>
#include <tuple>

#include "services/inference/engine/running_batch.h"

// Under pressure: events that come earlier than they must, before anybody loses its cache.
namespace palimpsest::inference {

int64_t RunningBatch::BytesToReserve(std::vector<StepItem>& items) const {
  std::erase_if(items,
                [](const StepItem& i) { return !i.sequence->cache || i.sequence->in_event; });
  int64_t pages = 0;
  for (const StepItem& item : items) pages += item.sequence->cache->PagesToReserve(item.count);
  return pages * cost_.page_bytes;
}

std::optional<int64_t> RunningBatch::EarlyPages() const {
  std::optional<int64_t> pages;
  for (const EventJob& job : jobs_) {
    if (const auto more = job.EarlyPages()) pages = pages.value_or(0) + *more;
  }
  return pages;
}

// Opens the early event that frees most. Its sequence stands still from now on, so that the step
// needs less; its pages come when the event is done. False: nobody may, or nobody would gain.
bool RunningBatch::OpenEarlyEvent() {
  DueEvent best;
  std::tuple<int64_t, int32_t> most = {0, 0};  // pages, slots
  const auto consider = [&](Sequence& s) {
    if (!s.has_rows() || s.NextInLog() || s.compacts_only()) return;
    context::PolicyInput input = s.PolicyView();
    input.pressure = true;
    const context::Decision decision = context::Decide(s.owner->request.context, input);
    const auto* draft = std::get_if<context::EventDraft>(&decision);
    if (draft == nullptr) return;
    const int32_t before = s.cache->state().live_count();
    const int32_t after = context::LiveCountAfter(s.cache->state(), *draft);
    const int64_t owned = s.cache->PagesToOwn(draft->window);
    const std::tuple frees = {PagesFor(before + 1) - PagesFor(after + 1) - owned, before - after};
    if (frees <= most || std::get<0>(frees) <= 0 || owned * cost_.page_bytes > FreeBytes()) return;
    most = frees;
    best = {.sequence = &s,
            .draft = *draft,
            .early_pages = std::ssize(s.cache->table()) - PagesFor(after)};
  };
  for (auto& s : running_) consider(*s);
  for (Group& g : groups_) consider(*g.prompt);
  if (best.sequence == nullptr) return false;
  FreePages(best.sequence->cache->PagesToOwn(best.draft.window));
  jobs_.emplace_back(best, device_, clock_);
  return true;
}

// Until the step's pages are there or nobody may compact: as many early events as let go of what is
// missing. While one is open, the youngest who want pages wait for its end; whoever waits is not in
// this step.
void RunningBatch::MakeRoomEarly(std::vector<StepItem>& items) {
  const auto less = [](const StepItem& a, const StepItem& b) {
    const auto wants = [](const StepItem& i) {
      return i.sequence->cache->PagesToReserve(i.count) > 0;
    };
    return std::pair(wants(a), a.sequence->Age()) < std::pair(wants(b), b.sequence->Age());
  };
  for (;;) {
    const int64_t missing = BytesToReserve(items) - FreeBytes();
    if (missing <= 0) return;
    if (sessions_.LoseIdlest()) continue;
    const std::optional<int64_t> coming = EarlyPages();
    if (coming.value_or(0) * cost_.page_bytes < missing && OpenEarlyEvent()) continue;
    if (!EarlyPages()) return;
    items.erase(std::max_element(items.begin(), items.end(), less));
  }
}

}  // namespace palimpsest::inference
