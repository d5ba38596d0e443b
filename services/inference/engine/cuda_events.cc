#include "services/inference/engine/cuda_events.h"

#include <algorithm>
#include <cmath>
#include <map>

#include "common/compaction/choose.h"
#include "common/compaction/cuda/match.h"
#include "common/compaction/cuda/solve.h"
#include "common/compaction/cuda/write_back.h"
#include "services/inference/core/page_pool.h"
#include "services/inference/engine/cuda_event_limits.h"

namespace palimpsest::inference {
namespace {

using context::Chooser;
using context::Method;

constexpr int64_t kWorkspaceBytes = int64_t{1} << 30;

// What becomes of a problem on the device: its kept slots are known and move; or it is scored, and
// then chosen (unless they are known) and either moved or fitted.
enum class Work { kMove, kEvict, kFit };

}  // namespace

// One head of one event.
template <class Stored>
struct DeviceEvents<Stored>::Problem {
  EventTask* event = nullptr;
  size_t event_index = 0, answer = 0;  // among the events; among its heads of the slice
  int head = 0, first = 0, slots = 0;  // the window's first slot, slots of the head
  Work work = Work::kMove;
  bool known = false;              // are the kept slots?
  std::vector<int32_t> positions;  // of the window's slots
  std::vector<int32_t> kept;       // indices of them
  compaction::HeadFacts facts;
};

// Of a batch, on the device; results are what Take copies.
template <class Stored>
struct DeviceEvents<Stored>::Arrays {
  int w = 1, n = 1, t = 1;
  const compaction::HeadFacts* heads = nullptr;
  const compaction::WindowHead<Stored>* windows = nullptr;
  const compaction::SlotsHead<Stored>* targets = nullptr;
  int32_t* kept = nullptr;  // [B, t]
  double *residuals = nullptr, *mass_errors = nullptr, *output_errors = nullptr;
  float* bias = nullptr;
  Stored* values = nullptr;
  int32_t* solves = nullptr;
};

template <class Stored>
typename DeviceEvents<Stored>::Problem DeviceEvents<Stored>::Describe(int layer, int head,
                                                                      EventTask& event,
                                                                      size_t answer) const {
  const context::Event& e = event.request->event;
  const bool forced = event.request->forced();
  Problem p{.event = &event, .answer = answer, .head = head};
  p.first = event.state->CountSlots(layer, head, {0, e.window.begin});
  p.slots = event.lengths[layer * config_.kv_heads + head];
  event.state->AppendSlots(layer, head, e.window, p.positions);
  const auto width = static_cast<int32_t>(p.positions.size());
  const bool fits = e.method == Method::kAttentionMatching;
  const bool by_attention =
      e.method == Method::kEvict && e.parameters.chooser == Chooser::kAttention;
  p.work = fits                                          ? Work::kFit
           : by_attention && (!forced || event.measured) ? Work::kEvict
                                                         : Work::kMove;
  p.known = forced || p.work == Work::kMove;
  int keep = context::KeptCount(e.method, event.request->keep_ratio, width);
  if (forced) {
    for (const int32_t position : e.kept.at(layer, head)) {
      const auto at = std::lower_bound(p.positions.begin(), p.positions.end(), position);
      p.kept.push_back(static_cast<int32_t>(at - p.positions.begin()));
    }
    keep = static_cast<int>(p.kept.size());
  } else if (p.known && e.parameters.chooser == Chooser::kRandom) {
    p.kept = compaction::RandomSlots(p.positions, keep, e.parameters.seed, layer, head);
  } else if (p.known) {
    p.kept = compaction::MostRecent(width, keep);
  }
  const int queries =
      p.work == Work::kMove ? 0 : e.reference.size() * (config_.heads / config_.kv_heads);
  p.facts = {.width = width,
             .keep = keep,
             .queries = queries,
             .mu = e.parameters.mu,
             .lambda = e.parameters.lambda,
             .log_lower = e.parameters.log_lower,
             .log_upper = e.parameters.log_upper};
  return p;
}

// Where each event's reference rows of the layer begin. Those that lie across their ring's end are
// copied into one piece.
template <class Stored>
void DeviceEvents<Stored>::PlaceReferences(int layer, std::span<EventTask> events,
                                           std::vector<const Stored*>& references) {
  const int64_t row = int64_t{config_.heads} * config_.head_dim;
  const auto before = [](const DeviceRing<Stored>& ring, context::Range r) {
    return std::min<int64_t>(r.size(), ring.capacity() - r.begin % ring.capacity());
  };
  int64_t copied = 0;
  for (const EventTask& e : events) {
    const context::Range r = e.request->event.reference;
    const auto* ring = static_cast<const DeviceRing<Stored>*>(e.ring);
    if (ring != nullptr && before(*ring, r) < r.size()) copied += r.size();
  }
  Grow(references_, sizeof(Stored) * copied * row, shelf_);
  Stored* to = references_.as<Stored>();
  for (const EventTask& e : events) {
    const context::Range r = e.request->event.reference;
    const auto* ring = static_cast<const DeviceRing<Stored>*>(e.ring);
    references.push_back(nullptr);
    if (ring == nullptr || r.empty()) continue;
    const Stored* from = ring->At(r.begin) + layer * ring->stride();
    const int64_t first = before(*ring, r);
    references.back() = from;
    if (first == r.size()) continue;
    cuda::CopyOnDevice(to, from, sizeof(Stored) * first * row, stream_);
    cuda::CopyOnDevice(to + first * row, ring->At(0) + layer * ring->stride(),
                       sizeof(Stored) * (r.size() - first) * row, stream_);
    references.back() = to;
    to += r.size() * row;
  }
}

template <class Stored>
void DeviceEvents<Stored>::Solve(int layer, int first_head, int heads,
                                 std::span<EventTask> events) {
  std::vector<const Stored*> references;
  PlaceReferences(layer, events, references);
  std::vector<Problem> problems;
  for (size_t i = 0; i < events.size(); ++i) {
    events[i].kept.assign(heads, {});
    for (int h = 0; h < heads && events[i].status.ok(); ++h) {
      Problem p = Describe(layer, first_head + h, events[i], h);
      p.event_index = i;
      events[i].status = CheckDeviceWindow(*events[i].request, p.work == Work::kFit, !p.known,
                                           p.facts.width, p.facts.keep);
      problems.push_back(std::move(p));
    }
  }
  std::map<std::pair<Work, bool>, std::vector<Problem*>> kinds;
  for (Problem& p : problems) {
    if (p.event->status.ok()) kinds[{p.work, p.known}].push_back(&p);
  }
  for (auto& [kind, alike] : kinds) {
    int w = 1, n = 1, t = 1;
    for (const Problem* p : alike) {
      w = std::max(w, p->facts.width), n = std::max(n, p->facts.queries);
      t = std::max(t, p->facts.keep);
    }
    const int64_t each = compaction::EventWorkspaceBytes(1, w, n, t, config_.head_dim);
    const size_t most =
        kind.first == Work::kMove ? alike.size() : std::max<int64_t>(1, kWorkspaceBytes / each);
    for (size_t begin = 0; begin < alike.size(); begin += most) {
      const std::span<Problem*> all(alike);
      SolveAlike(layer, all.subspan(begin, std::min(most, alike.size() - begin)), references);
    }
  }
}

template <class Stored>
void DeviceEvents<Stored>::SolveAlike(int layer, std::span<Problem*> problems,
                                      std::span<const Stored* const> references) {
  const Arrays arrays = Upload(layer, problems, references);
  Launch(arrays, problems);
  Take(arrays, problems);
}

template <class Stored>
typename DeviceEvents<Stored>::Arrays DeviceEvents<Stored>::Upload(
    int layer, std::span<Problem*> problems, std::span<const Stored* const> references) {
  Arrays a;
  size_t pages = 0;
  std::map<size_t, size_t> table_of;  // event -> where its table begins
  for (const Problem* p : problems) {
    a.w = std::max(a.w, p->facts.width), a.n = std::max(a.n, p->facts.queries);
    a.t = std::max(a.t, p->facts.keep);
    if (table_of.emplace(p->event_index, pages).second) pages += p->event->table.size();
  }
  const size_t count = problems.size(), kept_slots = count * a.t;
  const int64_t d = config_.head_dim, group = config_.heads / config_.kv_heads;
  inputs_.Begin(count * (sizeof(*a.heads) + sizeof(*a.windows) + sizeof(*a.targets)) +
                    sizeof(int32_t) * (pages + kept_slots) + 8 * DeviceUpload::kAlign,
                stream_);
  std::span<compaction::HeadFacts> heads;
  std::span<compaction::WindowHead<Stored>> windows;
  std::span<compaction::SlotsHead<Stored>> targets;
  std::span<int32_t> tables, kept;
  a.heads = inputs_.Put(count, heads);
  a.windows = inputs_.Put(count, windows);
  a.targets = inputs_.Put(count, targets);
  const int32_t* tables_there = inputs_.Put(pages, tables);
  a.kept = inputs_.Put(kept_slots, kept);
  std::fill(kept.begin(), kept.end(), -1);
  for (size_t b = 0; b < count; ++b) {
    const Problem& p = *problems[b];
    const size_t begin = table_of.at(p.event_index);
    std::copy(p.event->table.begin(), p.event->table.end(), tables.begin() + begin);
    Stored *k = pool_.K(layer) + p.head * d, *v = pool_.V(layer) + p.head * d;
    float* bias = pool_.Bias(layer) + p.head;
    const Stored* reference = references[p.event_index];
    heads[b] = p.facts;
    windows[b] = {.k = k,
                  .v = v,
                  .bias = bias,
                  .table = tables_there + begin,
                  .first = p.first,
                  .q = reference ? reference + p.head * group * d : nullptr};
    targets[b] = {.k = k,
                  .v = v,
                  .bias = bias,
                  .table = tables_there + begin,
                  .first = p.first,
                  .slots = p.slots};
    std::copy(p.kept.begin(), p.kept.end(), kept.begin() + b * a.t);
  }
  inputs_.Send(stream_);
  PlaceAnswers(count, a);
  return a;
}

// Three columns of doubles, then what stays on the device.
template <class Stored>
void DeviceEvents<Stored>::PlaceAnswers(size_t count, Arrays& a) {
  const size_t kept_slots = count * a.t, d = config_.head_dim;
  Grow(answers_,
       sizeof(double) * 3 * count + (sizeof(float) + sizeof(Stored) * d) * kept_slots +
           sizeof(int32_t) * count + 2 * DeviceUpload::kAlign,
       shelf_);
  a.residuals = answers_.as<double>();
  a.mass_errors = a.residuals + count;
  a.output_errors = a.mass_errors + count;
  const auto aligned = [](size_t bytes) {
    return (bytes + DeviceUpload::kAlign - 1) / DeviceUpload::kAlign * DeviceUpload::kAlign;
  };
  char* rest = answers_.as<char>() + aligned(sizeof(double) * 3 * count);
  a.values = reinterpret_cast<Stored*>(rest);
  a.bias = reinterpret_cast<float*>(rest + aligned(sizeof(Stored) * d * kept_slots));
  a.solves = reinterpret_cast<int32_t*>(a.bias + kept_slots);
}

template <class Stored>
void DeviceEvents<Stored>::Launch(const Arrays& a, std::span<Problem*> problems) {
  const Work work = problems.front()->work;
  const int count = static_cast<int>(problems.size()), d = config_.head_dim;
  const bool measured = std::any_of(problems.begin(), problems.end(),
                                    [](const Problem* p) { return p->event->measured; });
  if (work != Work::kMove) {
    Grow(workspace_, compaction::EventWorkspaceBytes(count, a.w, a.n, a.t, d), shelf_);
    const compaction::EventBatch<Stored> batch{
        .windows = {.windows = a.windows,
                    .heads = a.heads,
                    .problems = count,
                    .w = a.w,
                    .n = a.n,
                    .t = a.t,
                    .d = d,
                    .page_slots = kPageSlots,
                    .slot_stride = pool_.row,
                    .bias_stride = config_.kv_heads,
                    .group = config_.heads / config_.kv_heads,
                    .position_stride = int64_t{config_.heads} * d,
                    .scale = static_cast<float>(1 / std::sqrt(static_cast<double>(d)))},
        .forced = problems.front()->known,
        .workspace = workspace_.as<void>(),
        .kept = a.kept,
        .bias = a.bias,
        .values = a.values,
        .kkt_residuals = a.residuals,
        .solves = a.solves,
        .mass_errors = measured ? a.mass_errors : nullptr,
        .output_errors = measured ? a.output_errors : nullptr};
    cuda::Require(work == Work::kFit ? compaction::MatchEvents(batch, stream_)
                                     : compaction::EvictSlots(batch, stream_));
  }
  cuda::Require(compaction::WriteBack<Stored>({.targets = a.targets,
                                               .heads = a.heads,
                                               .kept = a.kept,
                                               .bias = work == Work::kFit ? a.bias : nullptr,
                                               .values = work == Work::kFit ? a.values : nullptr,
                                               .problems = count,
                                               .t = a.t,
                                               .d = d,
                                               .page_slots = kPageSlots,
                                               .slot_stride = pool_.row,
                                               .bias_stride = config_.kv_heads},
                                              stream_));
}

template <class Stored>
void DeviceEvents<Stored>::Take(const Arrays& a, std::span<Problem*> problems) {
  const size_t count = problems.size(), doubles = sizeof(double) * 3 * count,
               slots = sizeof(int32_t) * count * a.t;
  const Work work = problems.front()->work;
  Grow(answers_here_, doubles + slots, shelf_);
  if (work != Work::kMove) {
    cuda::CopyFromDevice(answers_here_.as<double>(), a.residuals, doubles, stream_);
    cuda::CopyFromDevice(answers_here_.as<char>() + doubles, a.kept, slots, stream_);
  }
  cuda::Wait(stream_);
  const double* numbers = answers_here_.as<double>();
  const auto* kept = reinterpret_cast<const int32_t*>(answers_here_.as<char>() + doubles);
  for (size_t b = 0; b < count; ++b) {
    Problem& p = *problems[b];
    if (!p.known) p.kept.assign(kept + b * a.t, kept + b * a.t + p.facts.keep);
    for (const int32_t j : p.kept) p.event->kept[p.answer].push_back(p.positions[j]);
    if (!p.event->measured || work == Work::kMove) continue;
    context::Quality& quality = p.event->quality;
    quality.mass_error += numbers[count + b];
    quality.output_error += numbers[2 * count + b];
    if (work == Work::kFit) quality.kkt_residual = std::max(quality.kkt_residual, numbers[b]);
  }
}

template class DeviceEvents<float>;
template class DeviceEvents<BFloat16>;

}  // namespace palimpsest::inference
