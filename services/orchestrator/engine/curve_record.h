#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "common/base/clock.h"
#include "common/telemetry/event_file.h"
#include "services/orchestrator/engine/ledger.h"

namespace palimpsest::orchestrator {

// The run's curves for TensorBoard, by the trainer's step: <run>/tensorboard/train and
// <run>/tensorboard/heldout, each with one file for each attempt that had something to add. What is
// trained and measured stands there once, over restarts too. One thread.
class CurveRecord {
 public:
  // The folder holds the ledger, which is read by a connection of its own. `clock` outlives this.
  static absl::StatusOr<std::unique_ptr<CurveRecord>> Open(const std::string& run_folder,
                                                           int32_t attempt, Clock& clock);
  // Adds what the ledger has new.
  absl::Status Update();

 private:
  // One folder, of which TensorBoard makes one line in each picture.
  struct Line {
    std::string folder;
    std::optional<int64_t> last;      // the newest step that stands there
    std::unique_ptr<EventFile> file;  // of this attempt, once there was something to add
  };
  CurveRecord(int32_t attempt, std::unique_ptr<const Ledger> ledger, Clock& clock)
      : attempt_(attempt), ledger_(std::move(ledger)), clock_(clock) {}
  static absl::StatusOr<Line> OpenLine(const std::string& folder);
  absl::Status Add(Line& line, int64_t step, const std::vector<Scalar>& scalars);
  absl::Status AddHeldout(const std::vector<StageRow>& stages);

  const int32_t attempt_;
  const std::unique_ptr<const Ledger> ledger_;
  Clock& clock_;
  Line train_, heldout_;
  size_t stages_over_ = 0;  // at the last look
};

}  // namespace palimpsest::orchestrator
