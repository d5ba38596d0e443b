#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "common/compaction/choose.h"
#include "common/context/types.h"

namespace palimpsest::compaction {

// Of a slot that brings something.
inline constexpr int64_t kCarriedBytes = sizeof(int32_t) + sizeof(double);

// What the slots of one KV head bring from event to event, for choosers that look further back than
// the references of the event at hand (context::Carries): which blocks cover what, and what each
// slot of theirs has received, as sum (accumulated) or as maximum (carried_max, diverse). A slot
// that no such event has had in its window brings nothing. A function of the log and the model
// alone: a cache that is rebuilt carries again what its log gives under the weights at hand.
//
// Where the events of one log have different choosers: one whose chooser does not carry adds
// nothing and leaves what its survivors have; one that carries the other quantity begins anew.
class CarriedImportance {
 public:
  // Blocks as stretches, in order: compact ones, and what is raw between them. `positions`: of the
  // window's slots, ascending. A window never cuts a compact block.
  std::vector<Stretch> Stretches(context::Range window, std::span<const int32_t> positions) const;

  // received [w]: at this event; becomes what the slots at `positions` [w] have received with it.
  void AddEarlier(context::Chooser chooser, std::span<const int32_t> positions,
                  std::span<double> received) const;

  // An event that carries has replaced the window: its slots at `kept` have received so much.
  void Replace(context::Chooser chooser, context::Range window, std::span<const int32_t> kept,
               std::span<const double> received);
  // Another one has.
  void Replace(context::Range window, std::span<const int32_t> kept);

  int64_t bytes() const { return std::ssize(positions_) * kCarriedBytes; }
  bool operator==(const CarriedImportance&) const = default;

 private:
  bool Holds(context::Chooser chooser) const;

  std::vector<context::Range> blocks_;  // compact ones, ascending
  bool sum_ = false;                    // what received_ is; else the maximum
  std::vector<int32_t> positions_;      // of the slots that bring something, ascending
  std::vector<double> received_;        // theirs
};

// By a chooser that carries: t of the window's slots, indices into it, ascending. received [w] as
// AddEarlier leaves it; keys [w, d] are read by `diverse` alone.
std::vector<int32_t> ChooseCarried(context::Chooser chooser, std::span<const double> received,
                                   std::span<const Stretch> stretches, std::span<const double> keys,
                                   int d, int t);

}  // namespace palimpsest::compaction
