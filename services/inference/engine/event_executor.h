#pragma once

#include <vector>

#include "common/base/clock.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

class KvPool;
struct Sequence;

// A new event, or one of the sequence's log that its rebuilt cache comes to.
struct DueEvent {
  Sequence* sequence = nullptr;
  context::EventDraft draft;
  const context::Event* forced = nullptr;  // then `draft` is not read
  context::Range window() const { return forced ? forced->window : draft.window; }
};

// Solves the events that fall due before this step, side by side over sequences, layer by layer;
// rewrites the pages, and appends new events, complete (digest, quality, time), to the sequences.
// All are forced or none is. An error ends its sequence. scale = 1/sqrt(d). Returns a status per
// event.
std::vector<absl::Status> ExecuteEvents(std::vector<DueEvent>& due, KvPool& pool, double scale,
                                        Clock& clock);

}  // namespace palimpsest::inference
