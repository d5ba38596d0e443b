#pragma once

#include <cstdint>
#include <functional>
#include <vector>

#include "common/attention/live_slots.h"
#include "common/attention/packed_batch.h"
#include "common/compaction/carried.h"
#include "common/compaction/gradient_mode.h"

namespace at {
class Tensor;
}

namespace palimpsest::attention {

struct KeySource;

// One event of one sequence in one layer, about to be solved.
struct PendingEvent {
  const ReplayEvent* request = nullptr;
  std::vector<HeadSlots>* heads = nullptr;  // [H'] the sequence's live slots; rewritten by the wave
  std::function<int64_t(int32_t)> row_of;   // query row of a reference position
  // Summed over layers and heads by the caller; null in all events of a wave or in none: then
  // nothing is measured.
  context::Quality* quality = nullptr;
  std::vector<std::vector<int32_t>>* chosen = nullptr;  // [H'] kept source positions
  // [H'] what the heads' slots bring along, of all events of a wave or of none; rewritten. Empty:
  // no event to come will ask for it, and a chooser that carries finds nothing earlier.
  std::span<compaction::CarriedImportance> carried = {};
};

// Solves events side by side (at most one of each sequence), over KV heads [first_head, first_head
// + H') of one layer: each head is a problem of its own. `source` holds what windows may point at,
// of all heads; slots of new compact blocks are numbered from its end. Letters: E events, Hk KV
// heads, B = E * H'.
class EventWave {
 public:
  // q [R, H, d] and reference_keys [R, Hk, d]: what `row_of` indexes; keys are read for
  // reference_kind `keys` only.
  EventWave(int layer, const at::Tensor& q, const at::Tensor& reference_keys,
            const KeySource& source, double scale, compaction::GradientMode gradient,
            int first_head = 0)
      : layer_(layer),
        first_head_(first_head),
        q_(q),
        reference_keys_(reference_keys),
        source_(source),
        scale_(scale),
        gradient_(gradient) {}

  // Rewrites the live slots of every event, which bring as many heads each. Compact slots are
  // appended to k [C', H', d], v, bias.
  void Solve(std::vector<PendingEvent>& events, std::vector<at::Tensor>& k,
             std::vector<at::Tensor>& v, std::vector<at::Tensor>& bias);

 private:
  struct Batch;
  void SolveAlike(const std::vector<PendingEvent*>& events, std::vector<at::Tensor>& k,
                  std::vector<at::Tensor>& v, std::vector<at::Tensor>& bias);
  void Fit(Batch& batch, const std::vector<PendingEvent*>& events, std::vector<at::Tensor>& k,
           std::vector<at::Tensor>& v, std::vector<at::Tensor>& bias);
  void GatherWindows(Batch& batch, const std::vector<PendingEvent*>& events) const;
  void GatherReferences(Batch& batch, const std::vector<PendingEvent*>& events) const;
  void Listen(Batch& batch, const std::vector<PendingEvent*>& events) const;
  void Choose(Batch& batch, const std::vector<PendingEvent*>& events) const;
  std::vector<int32_t> ChooseCarried(const Batch& batch, const PendingEvent& e, size_t b,
                                     int count) const;
  void AddEarlier(Batch& batch, const std::vector<PendingEvent*>& events) const;
  void Carry(const Batch& batch, const std::vector<PendingEvent*>& events) const;

  int64_t Head(size_t b, int64_t heads) const {  // of problem b
    return first_head_ + static_cast<int64_t>(b) % heads;
  }

  int layer_;
  int first_head_;
  const at::Tensor& q_;
  const at::Tensor& reference_keys_;
  const KeySource& source_;
  double scale_;
  compaction::GradientMode gradient_;
  int64_t next_slot_ = 0;
};

}  // namespace palimpsest::attention
