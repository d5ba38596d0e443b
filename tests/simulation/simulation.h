#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "tests/simulation/scenario.h"

namespace palimpsest::simulation {

struct Outcome {
  std::map<std::string, std::string> broken;  // promises, and how
  std::deque<std::string> latest;             // up to the first break
  uint64_t digest = 0;                        // of all that happened
  int64_t events = 0;
  int attempts = 0;                // starts of the orchestrator
  double seconds = 0;              // by the clock that jumps
  int64_t turns = 0;               // of threads
  int64_t continued = 0;           // samples that went on where they had been cut
  int64_t continued_episodes = 0;  // likewise, of several turns
  int64_t trained_events = 0;      // compactions in the logs of what was trained
  int64_t continued_events = 0;    // likewise, in what there was of samples that went on
};

// One run of the orchestrator among simulated peers, from its first start to its end and beyond
// deaths. A function of its arguments. One at a time in a process: SQLite and the log have one
// place each. `folder` is empty, or not there, and may be deleted afterwards.
Outcome Simulate(const Scenario& scenario, const std::string& folder);

}  // namespace palimpsest::simulation
