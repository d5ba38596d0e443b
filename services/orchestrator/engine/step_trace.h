#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/telemetry/trace.h"
#include "services/orchestrator/engine/ledger.h"

namespace palimpsest::orchestrator {

// What the calls of a step took, from the prompts of its groups to the flip of its weights, as
// <run>/trace/step_<N>.json: Chrome's trace format, which Perfetto reads too. A step has one trace,
// through all daemons, whose id follows from the run's seed: the same in every attempt. A group is
// part of the step that it is meant for; one that came into the batch of another keeps that id.
// OfGroup, OfStep and Take: any thread.
class StepTrace final : public TraceSink {
 public:
  // Every `every`-th step of the trainer gets a file, > 0.
  StepTrace(std::string run_folder, uint64_t seed, int64_t every)
      : run_folder_(std::move(run_folder)), seed_(seed), every_(every) {}

  TraceScope::Work OfGroup(int64_t group, int64_t step);
  TraceScope::Work OfStep(int64_t step);
  // Keeps the newest spans, kMaxSpans of them.
  void Take(CallSpan span) override;

  // Writes the files of steps that were trained since the first call, from the ledger of the run's
  // folder; with `ended` the newest one's too, which before waits for its weights to be published,
  // that is for the next step. One thread.
  absl::Status Update(bool ended);

  static constexpr size_t kMaxSpans = 50'000;

 private:
  absl::Status Open();
  TraceId IdOf(int64_t step) const;
  absl::Status Write(int64_t step);

  const std::string run_folder_;
  const uint64_t seed_;
  const int64_t every_;
  std::unique_ptr<const Ledger> ledger_;  // since the first look
  int64_t written_ = 0;                   // steps up to here are over
  absl::Mutex mu_;
  std::deque<CallSpan> spans_ ABSL_GUARDED_BY(mu_);
};

// A row of the picture: a group, or the step itself.
struct TraceRow {
  std::string name;
  std::vector<CallSpan> spans;
};
// Chrome's trace format. Callers stand in one process, what was served in one for each role.
std::string ChromeTrace(const std::vector<TraceRow>& rows);

}  // namespace palimpsest::orchestrator
