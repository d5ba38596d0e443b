#pragma once

#include <atomic>
#include <functional>
#include <string>
#include <thread>

#include "common/base/clock.h"
#include "common/collective/collective.h"
#include "services/trainer/engine/checkpoint_copy.h"
#include "services/trainer/engine/checkpoint_folder.h"

namespace palimpsest::trainer {

// Writes checkpoints beside the run, one at a time: each rank its part on a thread of its own, then
// rank 0, on its thread, the state and the name. The threads never use the collective: that all
// parts are there the ranks tell one another where they meet anyway (Meet, Begin, Wait). All ranks
// call the same functions in the same order on one thread; others may ask for the numbers.
//
// Each end is a line of the log of rank 0, with what the copy and the write took (copy_s, write_s;
// of several ranks without the wait between the parts and the state).
class CheckpointWriter {
 public:
  // `durable`: the step that the run goes on from, 0 for none. `clock` and `ranks` outlive it.
  CheckpointWriter(CheckpointFolder folder, int64_t durable, Clock& clock, Collective& ranks);
  // Waits for its own thread. Of several ranks a write whose parts have not met is none.
  ~CheckpointWriter();

  // Waits for the write before, has `copy` make this rank's part, and returns while it is written.
  // An error: nothing is, and no rank writes, except where only this rank's copy fails, which is
  // how the write then ends.
  absl::Status Begin(CheckpointState state,
                     const std::function<absl::StatusOr<CheckpointPart>()>& copy);
  // Waits for no disk: where all parts are there rank 0 goes on with the state.
  absl::Status Meet();
  // Until nothing is under way; how the last write ended.
  absl::Status Wait();
  // Waits likewise and asks the disk what is durable: somebody may have deleted it.
  absl::Status Look();

  // Any thread.
  int64_t durable_step() const { return durable_step_; }
  // Durable if the write under way succeeds; durable_step() when there is none. Of rank 0.
  int64_t saving_step() const { return saving_step_; }
  int64_t failures() const { return failures_; }

 private:
  enum class Stage { kNone, kParts, kState };  // alone kParts goes on to the end

  void Run(std::function<absl::Status()> work);  // on the thread
  absl::Status Join();
  absl::Status Timed(const std::function<absl::Status()>& work);
  absl::Status Finish();
  absl::Status Met(const absl::Status& parts);
  absl::Status Failed(const absl::Status& why);

  CheckpointFolder folder_;  // used by the thread while it runs, else by the caller
  Clock& clock_;
  Collective& ranks_;
  std::atomic<int64_t> durable_step_, saving_step_, failures_ = 0;

  // Of the write under way, or the last one.
  Stage stage_ = Stage::kNone;
  CheckpointState state_;
  std::string begun_;  // the folder
  double copy_seconds_ = 0, write_seconds_ = 0;
  absl::Status ended_;
  std::thread thread_;
  absl::Status result_;  // of the thread
  std::atomic<bool> done_ = true;
};

}  // namespace palimpsest::trainer
