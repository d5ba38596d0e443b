#pragma once

#include <optional>
#include <vector>

#include "common/attention/live_slots.h"
#include "common/attention/packed_batch.h"
#include "common/base/clock.h"
#include "services/inference/core/engine.h"

namespace at {
class Tensor;
}

namespace palimpsest::inference {

class KvPool;
struct Sequence;

// A new event, or one of the sequence's log that its rebuilt cache comes to.
struct DueEvent {
  Sequence* sequence = nullptr;
  context::EventDraft draft;
  const context::Event* forced = nullptr;  // then `draft` is not read
  // Pages that its end will let go of, of an event that memory asked for; absent: it was due.
  std::optional<int64_t> early_pages = {};
  context::Range window() const { return forced ? forced->window : draft.window; }
};

// Events of several sequences, solved side by side, layer by layer, so that others can decode
// between two layers. From the first layer on its sequences stand still (Sequence::in_event): their
// pages are partly rewritten. All events are forced or none is. Owner: engine thread.
class EventJob {
 public:
  // scale = 1/sqrt(d). The pages that the events rewrite are made their sequences' own.
  EventJob(std::vector<DueEvent> due, KvPool& pool, double scale, Clock& clock);

  bool done() const { return open_.empty() || layer_ == layers_; }
  void SolveLayer();
  // Forgets the events of sequences that are no longer in one: they have ended or lost their cache.
  void DropLost();

  // Pages that its early events will let go of; absent: none is early.
  std::optional<int64_t> EarlyPages() const;

  // What a layer of one event has taken so far, on average.
  double seconds_per_layer() const { return layer_ == 0 ? 0 : seconds_ / layer_ / events_; }

  // Once done: new events, complete (digest, quality, time), go to the sequences' logs. A status
  // per event that is left, in order; an error means that its sequence cannot go on.
  struct Result {
    DueEvent due;
    absl::Status status;
  };
  std::vector<Result> Finish();

 private:
  struct Open {
    DueEvent due;
    attention::ReplayEvent request;
    context::Event event;                      // what will stand in the log
    std::vector<attention::HeadSlots> heads;   // [Hk] of the layer at hand
    std::vector<std::vector<int32_t>> chosen;  // [Hk]
  };
  void SolveInto(std::vector<at::Tensor>& k, std::vector<at::Tensor>& v,
                 std::vector<at::Tensor>& bias);

  KvPool& pool_;
  double scale_;
  Clock& clock_;
  int layer_ = 0, layers_ = 0;
  double events_ = 1;  // at the beginning
  double seconds_ = 0;
  std::vector<Open> open_;
};

}  // namespace palimpsest::inference
