#pragma once

#include <functional>
#include <string>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/base/status.h"

namespace palimpsest {

// How the ranks of one life find one another by a folder that all of them see, whatever earlier
// lives left in it:
//   <folder>/current           name of the newest life and its size, written by rank 0
//   <folder>/life-<n>/came-R   rank R is here, with a word that no other process uses
//   <folder>/life-<n>/all      those words of all ranks, written by rank 0 when all have come
// A rank that finds another word than its own in `all` has read an older life and looks again.
struct MeetingPlace {
  std::string folder;
  int rank = 0;
  int size = 1;
  absl::Duration patience = absl::Minutes(10);           // until all have come
  std::function<bool()> give_up = [] { return false; };  // asked every 50 ms
};

// The folder of this life, once all ranks are there; it is theirs alone. DEADLINE_EXCEEDED names
// the ranks that have not come; CANCELLED: give_up said so.
absl::StatusOr<std::string> Meet(const MeetingPlace& place, Clock& clock);

}  // namespace palimpsest
