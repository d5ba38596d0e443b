#pragma once

#include <cstdint>

namespace palimpsest::trainer {

// Resident memory of this process at its highest since the last reset (since the start where the
// kernel refuses resets), in bytes; 0 where it is not told.
void ResetPeakMemory();
int64_t PeakMemory();

}  // namespace palimpsest::trainer
