#pragma once

#include "common/context/state.h"

namespace palimpsest::attention {

// Stands in for what a chooser will leave of a window, as far as the structure goes: the first
// slots of every head, as many as the event keeps. Later windows hang on counts alone.
context::KeptPositions FirstSlots(const context::ContextState& state, context::Range window,
                                  context::Method method, double keep_ratio);

}  // namespace palimpsest::attention
