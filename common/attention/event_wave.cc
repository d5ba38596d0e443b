#include "common/attention/event_wave.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <cmath>
#include <map>
#include <numeric>
#include <tuple>

#include "common/attention/execute_torch.h"
#include "common/attention/match_again_torch.h"
#include "common/attention/rows_torch.h"
#include "common/compaction/choose.h"
#include "common/compaction/matching_torch.h"

namespace palimpsest::attention {
namespace {

using compaction::GradientMode;
using context::Chooser;
using context::Method;
using context::ReferenceKind;

at::Tensor Flat(const at::Tensor& x) { return x.reshape({x.size(0) * x.size(1), x.size(2)}); }

// An eviction to choose what it keeps, to be measured, or because later choices will ask what its
// slots have received.
bool ListensToReferences(Method method, Chooser chooser, bool replayed, bool carried) {
  if (method == Method::kAttentionMatching) return true;
  return context::UsesReference(method, chooser) &&
         (!replayed || (carried && context::Carries(method, chooser)));
}

std::span<const int32_t> PositionsOf(const HeadSlots& head, HeadSlots::Run run) {
  return std::span(head.position).subspan(run.first, run.count());
}

bool IsHeldOut(const context::Event& e, int32_t reference) {
  const int32_t every = e.parameters.holdout_every;
  return every > 0 && (reference - e.reference.begin) % every == every - 1;
}

// Of head `b` of the wave; another event of it may hold queries out where this one does not.
void AddTo(const PendingEvent& e, const compaction::FitErrors& errors, int64_t b) {
  context::Quality& q = *e.quality;
  q.mass_error += errors.mass_error.data_ptr<double>()[b];
  q.output_error += errors.output_error.data_ptr<double>()[b];
  const context::Event& event = e.request->event;
  const int32_t every = event.parameters.holdout_every;
  if (every == 0 || event.reference.size() < every) return;
  q.holdout_mass_error =
      q.holdout_mass_error.value_or(0) + errors.holdout_mass_error.data_ptr<double>()[b];
  q.holdout_output_error =
      q.holdout_output_error.value_or(0) + errors.holdout_output_error.data_ptr<double>()[b];
}

// Indices into the windows, padded to the longest list (at least 1).
compaction::Kept Padded(const std::vector<std::vector<int32_t>>& lists) {
  compaction::Kept kept;
  size_t t = 1;
  for (const auto& list : lists) {
    kept.counts.push_back(static_cast<int>(list.size()));
    t = std::max(t, list.size());
  }
  std::vector<int64_t> index(lists.size() * t, 0);
  for (size_t b = 0; b < lists.size(); ++b)
    std::copy(lists[b].begin(), lists[b].end(), index.begin() + static_cast<ptrdiff_t>(b * t));
  kept.index = at::tensor(index, at::kLong)
                   .view({static_cast<int64_t>(lists.size()), static_cast<int64_t>(t)});
  return kept;
}

}  // namespace

// Events of one kind, padded to the largest.
struct EventWave::Batch {
  int64_t heads = 0;                 // H'
  std::vector<HeadSlots::Run> runs;  // [B]
  at::Tensor slots;                  // int64 [B, w] flat slot * Hk + head, -1 padding
  compaction::WindowBatch window;
  ReferenceRows references;  // of window.queries
  compaction::LocalSoftmax local;
  bool scored = false;
  at::Tensor received;  // [B, w] by choosers that carry: with what was received earlier
  std::vector<std::vector<int32_t>> kept;  // [B] indices into the window
};

void EventWave::GatherWindows(Batch& batch, const std::vector<PendingEvent*>& events) const {
  int64_t w = 1;
  for (const HeadSlots::Run& run : batch.runs) w = std::max<int64_t>(w, run.count());
  const int64_t problems = static_cast<int64_t>(batch.runs.size()), all = source_.k.size(1);
  std::vector<int64_t> index(problems * w, -1);
  for (int64_t b = 0; b < problems; ++b) {
    const HeadSlots& head = (*events[b / batch.heads]->heads)[b % batch.heads];
    for (int j = 0; j < batch.runs[b].count(); ++j) {
      index[b * w + j] = head.slot[batch.runs[b].first + j] * all + Head(b, batch.heads);
    }
  }
  batch.slots = at::tensor(index, at::kLong).view({problems, w});
  const bool full = gradient_ == GradientMode::kFull,
             detached = gradient_ == GradientMode::kDetached;
  const auto gather = [&](const at::Tensor& a, const at::Tensor& b, const at::Tensor& at_index,
                          bool with_grad) {
    return with_grad ? GatherRowsWithGrad(a, b, at_index)
                     : GatherRows(a.detach(), b.detach(), at_index);
  };
  batch.window.keys = gather(Flat(source_.k), Flat(source_.k_compact), batch.slots, full);
  batch.window.values = gather(Flat(source_.v), Flat(source_.v_compact), batch.slots, !detached);
  const at::Tensor bias = source_.bias.reshape({-1, 1});
  const at::Tensor compact = (batch.slots - source_.k.size(0) * all).clamp_min(-1);
  batch.window.bias = gather(bias, bias.slice(0, 0, 0), compact, full).squeeze(2);
  batch.window.slot_mask = batch.slots >= 0;
  batch.window.scale = scale_;
  batch.window.measured = events.front()->quality != nullptr;
}

void EventWave::GatherReferences(Batch& batch, const std::vector<PendingEvent*>& events) const {
  const ReferenceKind kind = events.front()->request->event.parameters.reference_kind;
  const int64_t query_heads = q_.size(1), d = q_.size(2), all = source_.k.size(1);
  const int64_t probes =
      kind == ReferenceKind::kKeys ? 1 : query_heads / all;  // per reference position and KV head
  int64_t longest = 1;
  for (const PendingEvent* e : events)
    longest = std::max<int64_t>(longest, e->request->event.reference.size());
  const int64_t problems = static_cast<int64_t>(batch.runs.size()), n = longest * probes;
  std::vector<int64_t> index(problems * n, -1);
  std::vector<uint8_t> fitted(problems * n, 0), held_out(problems * n, 0);
  bool any_holdout = false;
  for (int64_t b = 0; b < problems; ++b) {
    const context::Event& e = events[b / batch.heads]->request->event;
    const int64_t h = Head(b, batch.heads);
    for (int32_t r = e.reference.begin; r < e.reference.end; ++r) {
      const int64_t row = events[b / batch.heads]->row_of(r), offset = r - e.reference.begin;
      const bool out = IsHeldOut(e, r);
      any_holdout |= out;
      for (int64_t p = 0; p < probes; ++p) {
        const int64_t i = b * n + offset * probes + p;
        index[i] =
            kind == ReferenceKind::kKeys ? row * all + h : row * query_heads + h * probes + p;
        (out ? held_out : fitted)[i] = 1;
      }
    }
  }
  const auto mask = [&](const std::vector<uint8_t>& m) {
    return at::tensor(m, at::kByte).view({problems, n}).to(at::kBool);
  };
  batch.window.query_mask = mask(fitted);
  if (any_holdout) batch.window.holdout_mask = mask(held_out);
  const at::Tensor rows = at::tensor(index, at::kLong).view({problems, n});
  const at::Tensor flat = Flat(kind == ReferenceKind::kKeys ? reference_keys_ : q_);
  if (kind == ReferenceKind::kRandom) {
    std::vector<at::Tensor> drawn;
    for (int64_t b = 0; b < problems; ++b) {
      drawn.push_back(compaction::RandomReferences(
          events[b / batch.heads]->request->event.parameters.seed, layer_,
          static_cast<int>(Head(b, batch.heads)), static_cast<int>(n), static_cast<int>(d)));
    }
    batch.window.queries = at::stack(drawn).to(q_.scalar_type());
    batch.references = {.flat = batch.window.queries, .rows = {}};
  } else {
    batch.window.queries = GatherRows(flat.detach(), flat.slice(0, 0, 0), rows);
    batch.references = {.flat = flat, .rows = rows};
  }
}

void EventWave::Choose(Batch& batch, const std::vector<PendingEvent*>& events) const {
  const context::Event& kind = events.front()->request->event;
  std::vector<int> counts;
  for (size_t b = 0; b < batch.runs.size(); ++b) {
    const ReplayEvent& r = *events[b / batch.heads]->request;
    counts.push_back(context::KeptCount(r.event.method, r.keep_ratio, batch.runs[b].count()));
  }
  if (context::Carries(kind.method, kind.parameters.chooser)) {
    for (size_t b = 0; b < counts.size(); ++b)
      batch.kept.push_back(ChooseCarried(batch, *events[b / batch.heads], b, counts[b]));
    return;
  }
  if (batch.scored) {
    const compaction::Kept kept =
        compaction::ChooseByAttention(batch.local, batch.window, kind.parameters.chooser, counts);
    const int64_t t = kept.index.size(1);
    for (size_t b = 0; b < counts.size(); ++b) {
      const int64_t* row = kept.index.data_ptr<int64_t>() + static_cast<int64_t>(b) * t;
      batch.kept.emplace_back(row, row + counts[b]);
    }
    return;
  }
  for (size_t b = 0; b < counts.size(); ++b) {
    const PendingEvent& e = *events[b / batch.heads];
    const int head = static_cast<int>(Head(b, batch.heads));
    if (kind.parameters.chooser == Chooser::kRandom) {
      const std::span<const int32_t> positions((*e.heads)[b % batch.heads].position);
      batch.kept.push_back(
          compaction::RandomSlots(positions.subspan(batch.runs[b].first, batch.runs[b].count()),
                                  counts[b], e.request->event.parameters.seed, layer_, head));
    } else {
      batch.kept.push_back(compaction::MostRecent(batch.runs[b].count(), counts[b]));
    }
  }
}

void EventWave::AddEarlier(Batch& batch, const std::vector<PendingEvent*>& events) const {
  const Chooser chooser = events.front()->request->event.parameters.chooser;
  batch.received = compaction::Received(batch.local, batch.window, chooser);
  for (size_t b = 0; b < batch.runs.size(); ++b) {
    const PendingEvent& e = *events[b / batch.heads];
    const auto h = b % batch.heads;
    if (e.carried.empty()) continue;
    const auto positions = PositionsOf((*e.heads)[h], batch.runs[b]);
    double* const row = batch.received.data_ptr<double>() + b * batch.received.size(1);
    e.carried[h].AddEarlier(chooser, positions, {row, positions.size()});
  }
}

std::vector<int32_t> EventWave::ChooseCarried(const Batch& batch, const PendingEvent& e, size_t b,
                                              int count) const {
  const context::Event& event = e.request->event;
  const Chooser chooser = event.parameters.chooser;
  const auto positions = PositionsOf((*e.heads)[b % batch.heads], batch.runs[b]);
  const compaction::CarriedImportance nothing;
  const auto& carried = e.carried.empty() ? nothing : e.carried[b % batch.heads];
  const double* const row = batch.received.const_data_ptr<double>() + b * batch.received.size(1);
  at::Tensor keys = at::empty({0}, at::kDouble);
  if (chooser == Chooser::kDiverse) {
    keys = batch.window.keys[static_cast<int64_t>(b)]
               .detach()
               .slice(0, 0, batch.runs[b].count())
               .to(at::kDouble)
               .contiguous();
  }
  return compaction::ChooseCarried(
      chooser, {row, positions.size()}, carried.Stretches(event.window, positions),
      {keys.const_data_ptr<double>(), static_cast<size_t>(keys.numel())},
      static_cast<int>(q_.size(2)), count);
}

// What the survivors bring to the events to come: before the heads are rewritten.
void EventWave::Carry(const Batch& batch, const std::vector<PendingEvent*>& events) const {
  for (size_t b = 0; b < batch.runs.size(); ++b) {
    const PendingEvent& e = *events[b / batch.heads];
    if (e.carried.empty()) continue;
    const context::Event& event = e.request->event;
    compaction::CarriedImportance& carried = e.carried[b % batch.heads];
    const auto positions = PositionsOf((*e.heads)[b % batch.heads], batch.runs[b]);
    const double* const row = batch.received.defined() ? batch.received.const_data_ptr<double>() +
                                                             b * batch.received.size(1)
                                                       : nullptr;
    std::vector<int32_t> kept;
    std::vector<double> received;
    for (int32_t j : batch.kept[b]) {
      kept.push_back(positions[j]);
      if (row != nullptr) received.push_back(row[j]);
    }
    if (row != nullptr) {
      carried.Replace(event.parameters.chooser, event.window, kept, received);
    } else {
      carried.Replace(event.window, kept);
    }
  }
}

void EventWave::Fit(Batch& batch, const std::vector<PendingEvent*>& events,
                    std::vector<at::Tensor>& k, std::vector<at::Tensor>& v,
                    std::vector<at::Tensor>& bias) {
  const int64_t problems = static_cast<int64_t>(batch.runs.size()),
                e_count = static_cast<int64_t>(events.size());
  const compaction::Kept kept = Padded(batch.kept);
  const int64_t t = kept.index.size(1);
  std::vector<double> mu, lambda, lower, upper;
  for (int64_t b = 0; b < problems; ++b) {
    const context::Parameters& p = events[b / batch.heads]->request->event.parameters;
    mu.push_back(p.mu);
    lambda.push_back(p.lambda);
    lower.push_back(std::exp(p.log_lower));
    upper.push_back(std::exp(p.log_upper));
  }
  const auto column = [](const std::vector<double>& x) { return at::tensor(x, at::kDouble); };
  const compaction::Numerics numerics{
      .mu = column(mu), .lambda = column(lambda), .lower = column(lower), .upper = column(upper)};
  const bool again = gradient_ == GradientMode::kFull && c10::GradMode::is_enabled();
  compaction::Fit fit =
      again ? MatchAgain(std::move(batch.local), batch.window, kept, numerics, batch.references)
            : compaction::MatchWindow(batch.local, batch.window, kept, numerics);
  if (gradient_ == GradientMode::kStraightThrough) {
    fit.values = StraightThrough(
        fit.values, batch.window.values.gather(
                        1, kept.index.unsqueeze(2).expand({-1, -1, fit.values.size(2)})));
  }
  for (int64_t b = 0; b < problems && batch.window.measured; ++b) {
    const PendingEvent& e = *events[b / batch.heads];
    AddTo(e, fit, b);
    e.quality->kkt_residual =
        std::max(e.quality->kkt_residual, fit.kkt_residual.data_ptr<double>()[b]);
  }

  const at::Tensor kept_slots = batch.slots.gather(1, kept.index);
  at::Tensor keys =
      gradient_ == GradientMode::kDetached
          ? GatherRows(Flat(source_.k).detach(), Flat(source_.k_compact).detach(), kept_slots)
          : GatherRowsWithGrad(Flat(source_.k), Flat(source_.k_compact), kept_slots);
  // [E * Hk, t, ...] -> [E * t, Hk, ...]
  const auto by_slot = [&](const at::Tensor& x) {
    return x.reshape({e_count, batch.heads, t, -1})
        .transpose(1, 2)
        .reshape({e_count * t, batch.heads, -1});
  };
  k.push_back(by_slot(keys));
  v.push_back(by_slot(fit.values));
  bias.push_back(by_slot(fit.bias).squeeze(2));
  for (int64_t b = 0; b < problems; ++b) {
    std::vector<int64_t> fresh(batch.kept[b].size());
    std::iota(fresh.begin(), fresh.end(), next_slot_ + (b / batch.heads) * t);
    (*events[b / batch.heads]->heads)[b % batch.heads].Replace(batch.runs[b], batch.kept[b], fresh);
  }
  next_slot_ += e_count * t;
}

void EventWave::Listen(Batch& batch, const std::vector<PendingEvent*>& events) const {
  const ReplayEvent& kind = *events.front()->request;
  const Method method = kind.event.method;
  const Chooser chooser = kind.event.parameters.chooser;
  const bool replayed = kind.forced() && events.front()->quality == nullptr;
  const bool carried = !events.front()->carried.empty();
  if (!ListensToReferences(method, chooser, replayed, carried)) return;
  const c10::AutoGradMode grad(method == Method::kAttentionMatching &&
                               gradient_ != GradientMode::kDetached && c10::GradMode::is_enabled());
  GatherWindows(batch, events);
  GatherReferences(batch, events);
  batch.local = compaction::ScoreWindow(batch.window);
  batch.scored = true;
  if (context::Carries(method, chooser) && (carried || !kind.forced())) AddEarlier(batch, events);
}

void EventWave::SolveAlike(const std::vector<PendingEvent*>& events, std::vector<at::Tensor>& k,
                           std::vector<at::Tensor>& v, std::vector<at::Tensor>& bias) {
  const ReplayEvent& kind = *events.front()->request;
  Batch batch{.heads = std::ssize(*events.front()->heads)};
  for (const PendingEvent* e : events) {
    for (const HeadSlots& head : *e->heads)
      batch.runs.push_back(head.Find(e->request->event.window));
  }
  Listen(batch, events);
  if (kind.forced()) {
    for (size_t b = 0; b < batch.runs.size(); ++b) {
      const PendingEvent& e = *events[b / batch.heads];
      const int head = static_cast<int>(Head(b, batch.heads));
      batch.kept.push_back(IndicesOf((*e.heads)[b % batch.heads], batch.runs[b],
                                     e.request->event.kept.at(layer_, head)));
    }
  } else {
    Choose(batch, events);
  }
  for (size_t b = 0; b < batch.runs.size(); ++b) {
    const PendingEvent& e = *events[b / batch.heads];
    const HeadSlots& head = (*e.heads)[b % batch.heads];
    std::vector<int32_t> positions;
    for (int32_t j : batch.kept[b]) positions.push_back(head.position[batch.runs[b].first + j]);
    e.chosen->push_back(std::move(positions));
  }
  Carry(batch, events);
  if (kind.event.method == Method::kAttentionMatching) return Fit(batch, events, k, v, bias);
  if (batch.scored && batch.window.measured) {
    const compaction::FitErrors errors =
        compaction::MeasureEviction(batch.local, batch.window, Padded(batch.kept));
    for (size_t b = 0; b < batch.runs.size(); ++b) {
      AddTo(*events[b / batch.heads], errors, static_cast<int64_t>(b));
    }
  }
  for (size_t b = 0; b < batch.runs.size(); ++b) {
    HeadSlots& head = (*events[b / batch.heads]->heads)[b % batch.heads];
    std::vector<int64_t> same;
    for (int32_t j : batch.kept[b]) same.push_back(head.slot[batch.runs[b].first + j]);
    head.Replace(batch.runs[b], batch.kept[b], same);
  }
}

void EventWave::Solve(std::vector<PendingEvent>& events, std::vector<at::Tensor>& k,
                      std::vector<at::Tensor>& v, std::vector<at::Tensor>& bias) {
  next_slot_ = source_.k.size(0) + source_.k_compact.size(0);
  std::map<std::tuple<Method, Chooser, ReferenceKind, bool>, std::vector<PendingEvent*>> kinds;
  for (PendingEvent& e : events) {
    const context::Parameters& p = e.request->event.parameters;
    kinds[{e.request->event.method, p.chooser, p.reference_kind, e.request->forced()}].push_back(
        &e);
  }
  for (const auto& [kind, alike] : kinds) SolveAlike(alike, k, v, bias);
}

}  // namespace palimpsest::attention
