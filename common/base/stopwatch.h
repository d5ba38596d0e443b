#pragma once

#include "absl/time/time.h"
#include "common/base/clock.h"

namespace palimpsest {

// Seconds since it was made. `clock` outlives it.
class Stopwatch {
 public:
  explicit Stopwatch(Clock& clock) : clock_(clock), begin_(clock.Now()) {}
  double Seconds() const { return absl::ToDoubleSeconds(clock_.Now() - begin_); }

 private:
  Clock& clock_;
  const absl::Time begin_;
};

}  // namespace palimpsest
