#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <utility>

#include "common/base/status.h"
#include "services/trainer/engine/checkpoint_state.h"

namespace palimpsest::trainer {

struct FoundCheckpoint {
  std::string folder;
  CheckpointState state;
};

// What stays of a run's checkpoints.
struct KeptCheckpoints {
  int newest = 2;     // whole ones; >= 1
  int64_t every = 0;  // those whose step is a multiple of it stay for good; 0: none
};

// The checkpoints of a run as one process of it sees them: `<root>/step-00000012/`, each whole or
// not at all. One writer; one thread.
//
// When a process that went on from a checkpoint saves for the first time, what is newer than that
// one is no longer of the run: it becomes `<root>/broken-step-..` or, of another line of the run
// that was whole, `<root>/abandoned-step-..`, which nothing reads; of each kind the last one stays.
class CheckpointFolder {
 public:
  CheckpointFolder(std::string root, KeptCheckpoints keep) : root_(std::move(root)), keep_(keep) {}

  // The newest one whose files are what was written; those that are not are told in the log and
  // passed over. nullopt: there is none. DATA_LOSS: there are some, all broken.
  absl::StatusOr<std::optional<FoundCheckpoint>> Newest();
  // That of `step`. NOT_FOUND, with the steps that are there; FAILED_PRECONDITION: it is broken.
  absl::StatusOr<FoundCheckpoint> At(int64_t step);

  // An empty folder for the plain files of a checkpoint. What was begun before goes.
  absl::StatusOr<std::string> Begin();
  // The files are there: state.json with their digests and its own seal follow, and the folder gets
  // its name by a rename when everything is on disk. A folder of the same step is replaced. Then
  // all go that `keep` does not name; older ones that turn out to be broken are set aside too. An
  // error: the state is not durable, and what was begun is gone.
  absl::Status Commit(const std::string& begun, CheckpointState state);
  // What was begun comes to nothing.
  void Drop(const std::string& begun);

  // Of the latest that this process has read or written and that still stands there; 0: none.
  int64_t Durable() const;

 private:
  absl::StatusOr<FoundCheckpoint> Look(int64_t step) const;
  absl::Status SetAside(int64_t step, const std::string& why, const char* kind);
  absl::Status Name(const std::string& begun, int64_t step);
  absl::Status SetNewerAside();
  absl::Status DeleteOld();

  std::string root_;
  KeptCheckpoints keep_;
  std::set<int64_t> whole_;                // steps, read or written by this process
  std::map<int64_t, std::string> broken_;  // steps, and why
  std::optional<int64_t> from_;            // the step that the run goes on from, until it is saved
};

// A number that rises with each call over all lives of the run, from 0; kept in `<root>/attempt`.
// `used`: the highest that the run is known to have used, -1 for none. A file that holds no number,
// or a lower one, is told in the log, and the next after `used` is taken.
absl::StatusOr<int64_t> NextAttempt(const std::string& root, int64_t used);

}  // namespace palimpsest::trainer
