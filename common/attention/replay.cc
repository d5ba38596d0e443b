#include "common/attention/replay.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <map>
#include <numeric>

#include "common/attention/event_wave.h"
#include "common/attention/execute_torch.h"
#include "common/attention/held_prompt_torch.h"
#include "common/attention/rows_torch.h"

namespace palimpsest::attention {

struct ReplayContext::Impl {
  const PackedBatch& batch;
  ReplayOptions options;
  const HeldPrompt* held;
  // [nodes][events], filled layer by layer
  std::vector<std::vector<context::Event>> replayed;
  int layers = 0;  // that have been asked; what a backward pass asks again is below

  Impl(const PackedBatch& b, const ReplayOptions& o, const HeldPrompt* h)
      : batch(b), options(o), held(h) {
    for (const PackedBatch::Node& node : b.nodes()) {
      auto& events = replayed.emplace_back();
      for (const ReplayEvent& e : node.events) {
        events.push_back(e.event);
        events.back().kept = context::KeptPositions(b.shape());
        events.back().quality = {};
      }
    }
  }
};

namespace {

// Must earlier events be listened to, forced ones too, because a later one chooses by them?
bool ChoosesByCarried(const PackedBatch& batch) {
  for (const PackedBatch::Node& node : batch.nodes()) {
    for (const ReplayEvent& e : node.events) {
      if (!e.forced() && context::Carries(e.event.method, e.event.parameters.chooser)) return true;
    }
  }
  return false;
}

// Does an event look at rows of the prompt that is held?
bool RefersToHeld(const PackedBatch& batch) {
  for (const PackedBatch::Node& node : batch.nodes()) {
    if (node.parent < 0 || !batch.nodes()[node.parent].held) continue;
    for (const ReplayEvent& e : node.events) {
      const context::Range& seen = e.event.reference;
      if (!seen.empty() && seen.begin < node.position_begin) return true;
    }
  }
  return false;
}

// One layer of the replay: walks all sequences run by run, event by event. Kept positions are noted
// in `replayed` unless it is null.
class LayerReplay {
 public:
  LayerReplay(const PackedBatch& batch, const ReplayOptions& options, int layer,
              const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, const HeldPrompt* held,
              std::vector<std::vector<context::Event>>* replayed)
      : batch_(batch),
        options_(options),
        layer_(layer),
        q_(q),
        heads_(k.size(1)),
        builder_(q.size(0), static_cast<int>(heads_)),
        live_(batch.nodes().size()),
        carried_(ChoosesByCarried(batch) ? batch.nodes().size() : 0),
        replayed_(replayed) {
    source_ = {.k = k,
               .v = v,
               .k_compact = k.slice(0, 0, 0),
               .v_compact = v.slice(0, 0, 0),
               .bias = Wide(k.slice(0, 0, 0)).slice(2, 0, 1).squeeze(2)};
    if (held != nullptr) GoOnFrom(*held);
    if (!reference_q_.defined()) reference_q_ = q;
    if (!reference_k_.defined()) reference_k_ = source_.k;
  }

  at::Tensor Run() {
    Walk(0, batch_.prompt_nodes());
    Walk(batch_.prompt_nodes(), static_cast<int>(batch_.nodes().size()));
    for (const auto& [key, rows] : shared_rows_) {
      std::vector<int64_t> slots(key.second);
      std::iota(slots.begin(), slots.end(), batch_.nodes()[key.first].row_begin);
      builder_.AddShared(rows, slots);
    }
    auto plan = std::make_shared<AttentionPlan>(builder_.Build());
    if (c10::GradMode::is_enabled())
      return AttendWithGrad(std::move(plan), q_, source_, options_.scale);
    return ExecutePlan(*plan, q_, source_, options_.scale).o;
  }

 private:
  using Live = std::vector<HeadSlots>;                         // [Hk]
  using Carried = std::vector<compaction::CarriedImportance>;  // [Hk]

  // The rows of the prompt stand where compact slots do, before all others and with bias 0.
  void GoOnFrom(const HeldPrompt& held) {
    const std::vector<at::Tensor> rows = Borrow(held.layers[layer_], source_.k);
    source_.k_compact = rows[1];
    source_.v_compact = rows[2];
    source_.bias = at::zeros({rows[1].size(0), heads_}, source_.bias.options());
    if (!RefersToHeld(batch_)) return;
    reference_q_ = at::cat({q_, rows[0]});
    reference_k_ = at::cat({source_.k, rows[1]});
  }

  // Nodes [first, last) advance together: all to their k-th event, one wave, and on.
  void Walk(int first, int last) {
    size_t most = 0;
    for (int n = first; n < last; ++n) {
      const PackedBatch::Node& node = batch_.nodes()[n];
      live_[n] = node.parent >= 0 ? live_[node.parent] : Live(heads_);
      if (!carried_.empty())
        carried_[n] = node.parent >= 0 ? carried_[node.parent] : Carried(heads_);
      most = std::max(most, node.events.size());
    }
    for (size_t wave = 0; wave < most; ++wave) {
      std::vector<PendingEvent> due;
      std::vector<std::vector<std::vector<int32_t>>> chosen(last - first);
      for (int n = first; n < last; ++n) {
        const PackedBatch::Node& node = batch_.nodes()[n];
        if (wave >= node.events.size()) continue;
        AdvanceTo(n, wave == 0 ? node.position_begin : node.events[wave - 1].event.at,
                  node.events[wave].event.at);
        due.push_back({.request = &node.events[wave],
                       .heads = &live_[n],
                       .row_of = [this, n](int32_t p) { return batch_.RowOfNode(n, p); },
                       .chosen = &chosen[n - first]});
        if (!carried_.empty()) due.back().carried = carried_[n];
      }
      SolveWave(due);
      for (int n = first; n < last && replayed_ != nullptr; ++n) {
        for (const auto& positions : chosen[n - first]) {
          (*replayed_)[n][wave].kept.AddHead(positions);
        }
      }
    }
    for (int n = first; n < last; ++n) {
      const PackedBatch::Node& node = batch_.nodes()[n];
      AdvanceTo(n, node.events.empty() ? node.position_begin : node.events.back().event.at,
                node.position_begin + node.count);
    }
  }

  void SolveWave(std::vector<PendingEvent>& due) {
    std::vector<at::Tensor> k = {source_.k_compact}, v = {source_.v_compact}, bias = {source_.bias};
    EventWave(layer_, reference_q_, reference_k_, source_, options_.scale, options_.gradient)
        .Solve(due, k, v, bias);
    if (k.size() == 1) return;
    source_.k_compact = at::cat(k);
    source_.v_compact = at::cat(v);
    source_.bias = at::cat(bias);
  }

  // Rows of positions [from, to): what they see is noted, then they become raw slots.
  void AdvanceTo(int n, int32_t from, int32_t to) {
    if (to <= from) return;
    const PackedBatch::Node& node = batch_.nodes()[n];
    const int64_t begin = batch_.RowOfNode(n, from), count = to - from;
    std::vector<int64_t> own(count);
    std::iota(own.begin(), own.end(), begin);
    if (!node.held) builder_.AddCausal(begin, own);
    Live& live = live_[n];
    const size_t shared = node.parent >= 0 ? SharedPrompt(node, live) : 0;
    if (shared > 0) {
      auto& rows = shared_rows_[{node.parent, static_cast<int64_t>(shared)}];
      rows.insert(rows.end(), own.begin(), own.end());
    }
    std::vector<std::vector<int64_t>> rest;
    for (const HeadSlots& head : live)
      rest.emplace_back(head.slot.begin() + shared, head.slot.end());
    builder_.AddPerHead(begin, count, std::move(rest));
    for (HeadSlots& head : live) {
      for (int32_t p = from; p < to; ++p) {
        head.position.push_back(p);
        head.slot.push_back(begin + p - from);
      }
    }
  }

  // How many leading slots are, in every head, the parent's first rows as they are.
  size_t SharedPrompt(const PackedBatch::Node& node, const Live& live) const {
    const PackedBatch::Node& parent = batch_.nodes()[node.parent];
    size_t shared = parent.count;
    for (const HeadSlots& head : live) {
      size_t j = 0;
      while (j < std::min(shared, head.slot.size()) &&
             head.slot[j] == parent.row_begin + static_cast<int64_t>(j))
        ++j;
      shared = j;
    }
    return shared;
  }

  const PackedBatch& batch_;
  const ReplayOptions& options_;
  int layer_;
  const at::Tensor& q_;
  int64_t heads_;
  KeySource source_;
  at::Tensor reference_q_, reference_k_;  // what events may look at, by row
  PlanBuilder builder_;
  std::vector<Live> live_;        // [nodes]
  std::vector<Carried> carried_;  // [nodes], or none where nobody will ask
  std::map<std::pair<int, int64_t>, std::vector<int64_t>>
      shared_rows_;  // (prompt node, raw prefix) -> query rows
  std::vector<std::vector<context::Event>>* replayed_;
};

}  // namespace

ReplayContext::ReplayContext(const PackedBatch& batch, const ReplayOptions& options,
                             const HeldPrompt* held)
    : impl_(std::make_unique<Impl>(batch, options, held)) {}
ReplayContext::~ReplayContext() = default;

at::Tensor ReplayContext::Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v) {
  const bool again = layer < impl_->layers;
  if (!again) impl_->layers = layer + 1;
  return LayerReplay(impl_->batch, impl_->options, layer, q, k, v, impl_->held,
                     again ? nullptr : &impl_->replayed)
      .Run();
}

std::vector<std::vector<context::Event>> ReplayContext::TakeEvents() {
  return std::move(impl_->replayed);
}

}  // namespace palimpsest::attention
