#include "tests/simulation/network.h"

namespace palimpsest::simulation {

std::optional<Fault> Network::Begin(const std::string& what) {
  if (!alive_) return std::nullopt;
  ++calls_;
  std::optional<Fault> fate;
  while (next_fault_ < scenario_.faults.size() && scenario_.faults[next_fault_].at < calls_) {
    const Fault fault = scenario_.faults[next_fault_++].fault;
    history_.Add(absl::StrFormat("-- %s, at call %d: %s", Name(fault), calls_, what));
    if (fault <= Fault::kRefused) {
      fate = fault;
    } else {
      on_fault(fault);
    }
    // Whoever died at this call meets the rest later.
    if (!alive_) return std::nullopt;
  }
  return fate;
}

// Mostly milliseconds, now and then a second.
absl::Duration Network::Way() {
  const double draw = random_.Uniform();
  return absl::Milliseconds(random_.Below(100) == 0 ? 1000 * draw : 5 * draw);
}

absl::Duration Network::Late(absl::Duration deadline) {
  return deadline + absl::Seconds(20 * random_.Uniform());
}

}  // namespace palimpsest::simulation
