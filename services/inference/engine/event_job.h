#pragma once

#include <optional>
#include <span>
#include <vector>

#include "common/base/clock.h"
#include "services/inference/core/engine.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

struct Sequence;

// A new event, or one of the sequence's log that its rebuilt cache comes to.
struct DueEvent {
  Sequence* sequence = nullptr;
  context::EventDraft draft;
  const context::Event* forced = nullptr;        // then `draft` is not read
  const context::KeptPositions* kept = nullptr;  // of a new event: these instead of a choice
  // Pages that its end will let go of, of an event that memory asked for; absent: it was due.
  std::optional<int64_t> early_pages = {};
  context::Range window() const { return forced ? forced->window : draft.window; }
};

// Events of several sequences, solved side by side, in slices of some KV heads of one layer, so
// that others can decode between two slices. Heads are problems of their own: how they are sliced
// changes no bit. From the first slice on its sequences stand still (Sequence::in_event): their
// pages are partly rewritten. All events are forced or none is. Owner: engine thread.
class EventJob {
 public:
  // The pages that the events rewrite are made their sequences' own.
  EventJob(const DueEvent& first, StepDevice& device, Clock& clock);

  // May `due` be solved beside the others? Only before the first slice, and if it is of their kind.
  bool Takes(const DueEvent& due) const;
  void Add(const DueEvent& due);
  bool done() const { return open_.empty() || layer_ == shape_.layers; }
  // The next slice: KV heads of the layer at hand, at most so many (>= 1).
  void Solve(int heads);
  // Forgets the events of sequences that are no longer in one: they have ended or lost their cache.
  void DropLost();

  // Pages that its early events will let go of; absent: none is early.
  std::optional<int64_t> EarlyPages() const;

  // What one head of one event has taken so far, on average.
  double seconds_per_head() const { return solved_ == 0 ? 0 : seconds_ / solved_; }
  double events() const { return static_cast<double>(open_.size()); }

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
    context::Event event;  // what will stand in the log
    absl::Status status;   // of the slices so far
  };
  EventTask TaskOf(const Open& open, int heads) const;
  void Take(EventTask& task, int heads, Open& open);

  StepDevice& device_;
  Clock& clock_;
  bool forced_;  // all events are, or none
  context::Shape shape_;
  int layer_ = 0, head_ = 0;  // where the next slice begins
  double solved_ = 0;         // heads of events
  double seconds_ = 0;
  std::vector<Open> open_;
};

}  // namespace palimpsest::inference
