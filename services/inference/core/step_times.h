#pragma once

#include <algorithm>
#include <cstdint>

#include "services/inference/core/recent_median.h"

namespace palimpsest::inference {

// How long what a step is made of takes, and what follows for those who wait beside it: a step of
// sequences that decode takes a median time; events and prompts beside them get half of that each,
// so that such a step takes at most about twice as long. Where more sequences wait for their events
// than decode, events get as many times more: else the few would decode in ever shorter steps, and
// events go on in ever smaller slices. What has not been measured yet is not bounded. Times in
// seconds. Owner: engine thread.
class StepTimes {
 public:
  static constexpr double kShare = 0.5;      // of a median step, for events and for prompts each
  static constexpr int32_t kLeastRows = 16;  // of prompts: what is admitted goes on

  // A forward pass over `decoded` single rows and `prefilled` rows of prompts, with the draws.
  void AddPass(double seconds, int32_t decoded, int32_t prefilled) {
    if (prefilled == 0) return decode_.Add(seconds);
    const double beside = decoded > 0 ? decode_.Median() : 0;
    row_.Add(std::max(0.0, seconds - beside) / prefilled);
  }
  // A slice of an event: so many seconds for each head of each of its events.
  void AddEvent(double seconds_per_head) { head_.Add(seconds_per_head); }

  // The time that the events of `waiting` sequences may take per step beside `decoding` (> 0)
  // others.
  double ForEvents(double waiting, double decoding) const {
    return kShare * Slice(waiting, decoding);
  }
  // And how long one slice of them should be: it is paid for by the next steps, as more heads side
  // by side cost less each.
  double Slice(double waiting, double decoding) const {
    return decode_.Median() * std::max(1.0, waiting / decoding);
  }
  // How many heads are done in `seconds`; at least 1. Before the first measurement: 1.
  double HeadsIn(double seconds) const {
    const double head = head_.Median();
    return head > 0 ? std::clamp(seconds / head, 1.0, 1e6) : 1;
  }
  // Rows of prompts in a step beside others that decode, of at most `most`.
  int32_t PromptRows(int32_t most) const {
    const double row = row_.Median(), seconds = kShare * decode_.Median();
    if (seconds <= 0 || row * most <= seconds) return most;
    return std::max(static_cast<int32_t>(seconds / row), std::min(most, kLeastRows));
  }

 private:
  RecentMedian decode_;  // of passes in which nobody's prompt is processed
  RecentMedian row_;     // of one row of a prompt
  RecentMedian head_;    // of one head of one event
};

// The time that events may still take, over steps: each step adds its share, a slice that took more
// is paid for by the steps that follow, what is not used is lost. Without a share (nothing is
// measured yet, or nobody decodes) there are no debts, so that what is open always goes on.
class EventCredit {
 public:
  void BeginStep(double share) { seconds_ = share > 0 ? std::min(seconds_, 0.0) + share : 0; }
  bool Left() const { return seconds_ >= 0; }
  void Spend(double seconds) { seconds_ -= seconds; }

 private:
  double seconds_ = 0;
};

}  // namespace palimpsest::inference
