#pragma once

#include <vector>

#include "common/base/clock.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

class KvPool;
struct Sequence;

struct DueEvent {
  Sequence* sequence = nullptr;
  context::EventDraft draft;
};

// Solves the events that fall due before this step, side by side over sequences, layer by layer;
// writes the compact rows, lets go of the windows', appends the complete events (digest, quality,
// time) to the sequences. An error ends its sequence. scale = 1/sqrt(d). Returns a status per
// event.
std::vector<absl::Status> ExecuteEvents(std::vector<DueEvent>& due, KvPool& pool, double scale,
                                        Clock& clock);

}  // namespace palimpsest::inference
