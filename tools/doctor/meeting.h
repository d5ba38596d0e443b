#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"

// What the nodes of a job learn from one another: each is a process that calls Meet, on a folder
// that all of them see.
namespace palimpsest::tools {

struct MeetingOptions {
  std::string folder;                           // of this meeting alone
  std::string node;                             // our name, by which the others reach us
  int32_t nodes = 0;                            // that are to come, we among them
  absl::Duration patience = absl::Seconds(60);  // for each wait for another node
};

// Another node, as we see it.
struct Acquaintance {
  std::string node;
  absl::Status reached;        // by its name, over TCP
  absl::Duration round_trip;   // the shortest of some
  absl::Duration clock_ahead;  // of ours, to half a round trip
  // From the moment at which it wrote a file, told by our clock, until our listing showed it;
  // InfiniteDuration: not within `patience`.
  absl::Duration visible_after = absl::InfiniteDuration();
};

// Every node writes its address into the folder, measures clock and network of the others over TCP,
// and, when all of them look, a file for which they look. Returns when all others have measured us,
// too, or have lost their patience; ascending by name. DEADLINE_EXCEEDED names how many came.
absl::StatusOr<std::vector<Acquaintance>> Meet(const MeetingOptions& options, Clock& clock);

}  // namespace palimpsest::tools
