#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "services/orchestrator/core/curriculum.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/core/progress.h"
#include "services/orchestrator/engine/sqlite.h"

namespace palimpsest::orchestrator {

struct StageRow {
  std::string name;
  int64_t first_step = 0;            // the trainer's step before it
  std::optional<int64_t> last_step;  // once it is over
};

enum class BatchKind : uint8_t { kSft = 1, kRl = 2 };
struct BatchRow {
  int64_t step = 0;  // of the trainer, that it becomes
  std::string id;
  std::string stage;
  BatchKind kind = BatchKind::kSft;
  int64_t stage_step = 0;  // within its stage, from 0
  bool trained = false;    // the trainer has answered
};

enum class GroupState : uint8_t { kOpen = 1, kReady = 2, kBatched = 3, kDropped = 4 };
struct GroupRow {
  int64_t id = 0;     // from 0
  std::string task;   // its prompt:
  int64_t index = 0;  // this one of the task's train split
  GroupState state = GroupState::kOpen;
  int32_t tries = 0;             // requests made for it
  std::vector<int32_t> samples;  // accepted, ascending
};

// What a trained step was like.
struct StepRow {
  int64_t step = 0;
  std::string stage;
  double loss = 0;
  std::optional<double> reward;  // the following are of RL steps
  int64_t sampled_tokens = 0;
  double mean_total_tokens = 0;
  double turns = 1;   // responses per rollout
  double events = 0;  // per rollout
  int64_t staleness_max = 0;
  std::optional<double> mismatch_kl;
  std::optional<double> mismatch_max_abs;
  int64_t loss_tokens = 0;
  int64_t rejected = 0;
  double generate_seconds = 0;  // wall time in which rollouts were made for it
  double train_seconds = 0;
};

// One held-out prompt in one evaluation.
struct EvaluationRow {
  std::string name;  // first, last, step-<n>, or <name of a context>
  bool greedy = false;
  int64_t index = 0;
  double reward = 0;
  bool needs_memory = false;
  int32_t total_tokens = 0;
  int32_t turns = 1;
  int32_t events = 0;
  std::string reason;
  std::map<std::string, double> parts;  // of the reward, by name
  std::string text;
  std::string bytes;  // of the rollout
};

// One held-out prompt that no try could measure.
struct UnjudgedRow {
  std::string name;
  bool greedy = false;
  int64_t index = 0;
  std::string reason;
};

// All held-out prompts of one evaluation.
struct EvaluationMean {
  std::string name;
  bool greedy = false;
  double reward = 0;
  int64_t prompts = 0;   // that are measured
  int64_t unjudged = 0;  // that could not be
};

// What a ledger says of its run as a whole.
struct RunRow {
  std::string run;
  uint64_t seed = 0;
  int32_t attempts = 0;
  absl::Time began;  // the first attempt
  absl::Time seen;   // the last beat of the latest
};

// A sample of a group that the end of an attempt cut off, or left without its judgement.
struct CutRow {
  int32_t sample = 0;
  std::string text;   // of one that had ended; of several turns: of the last whole response
  std::string bytes;  // of the rollout, as far as it came
  // Of several turns: before the environment was told that response, and how many there are.
  Episode episode = {};
  int32_t responses = 0;
};

// What is true about a run, in one SQLite file. A call that changes something returns when it is on
// the disk, or has changed nothing. Any thread; `Open` refuses the ledger of another run or seed.
class Ledger {
 public:
  static absl::StatusOr<std::unique_ptr<Ledger>> Open(const std::string& path,
                                                      const std::string& run, uint64_t seed);
  // By key; kept by the first call that has any. FAILED_PRECONDITION by a later one whose value of
  // a kept key is another or missing; a key that was not kept, of a newer program say, is let pass.
  absl::Status Hold(const std::map<std::string, std::string>& settings);
  // Of any run, alive or not, for those who only look: nothing that they ask holds up the run.
  static absl::StatusOr<std::unique_ptr<const Ledger>> Read(const std::string& path);
  absl::StatusOr<RunRow> About() const;

  // Attempts: starts of the orchestrator, from 0. Wall time counts while an attempt lives.
  absl::StatusOr<int32_t> BeginAttempt(absl::Time now);
  absl::Status Beat(absl::Time now);
  absl::StatusOr<double> WallSeconds() const;

  absl::StatusOr<std::optional<StageRow>> FindStage(const std::string& name) const;
  absl::StatusOr<std::vector<StageRow>> Stages() const;  // in the order of their beginning
  // The stage's first step: this one, or that of the attempt which began it.
  absl::StatusOr<int64_t> BeginStage(const std::string& name, int64_t first_step);
  absl::Status EndStage(const std::string& name, int64_t last_step);

  // Batches. A batch stands here before the trainer sees it; steps have no gaps.
  absl::Status CommitSftBatch(const BatchRow& batch);
  // Takes whole groups, which must be ready; advantages by rollout id.
  absl::Status CommitRlBatch(const BatchRow& batch, const std::vector<int64_t>& groups,
                             const std::map<std::string, double>& advantages);
  // With what the trainer replayed of the rollouts, as far as it is known.
  absl::Status MarkTrained(const StepRow& row, const std::vector<rl::Replayed>& replayed = {});
  absl::StatusOr<int64_t> LastStep() const;  // 0 without batches
  absl::StatusOr<BatchRow> Batch(int64_t step) const;
  // Trained ones beyond `after`, ascending.
  absl::StatusOr<std::vector<StepRow>> Steps(int64_t after = 0) const;

  // Groups. Numbers rise by one, and so do the prompts of each task: none is skipped or used twice.
  absl::StatusOr<int64_t> NextGroup() const;
  absl::StatusOr<GroupRow> OpenGroup(const std::string& task);  // of the task's next prompt
  absl::StatusOr<std::vector<GroupRow>> Groups(GroupState state) const;  // ascending
  absl::Status CountTry(int64_t group);
  // Rollouts are accepted, and the group is ready if `whole`.
  absl::Status Accept(int64_t group, const std::vector<RolloutRow>& rollouts, bool whole,
                      absl::Time now);
  absl::Status DropGroup(int64_t group, const std::string& why);
  // In the place of what was kept of the group before. A sample that is accepted is kept no longer.
  absl::Status KeepCut(int64_t group, const std::vector<CutRow>& cut);
  absl::StatusOr<std::vector<CutRow>> Cut(int64_t group) const;  // ascending by sample
  // Groups that were dropped after the latest one that is in a batch.
  absl::StatusOr<int64_t> DroppedSinceBatch() const;
  // Accepted rollouts of a group, by sample, with their bytes.
  absl::StatusOr<std::vector<RolloutRow>> Rollouts(int64_t group) const;
  absl::StatusOr<std::vector<RolloutRow>> Members(int64_t step) const;
  // By task, over the latest `groups`; solved is a rollout of at least this reward.
  absl::StatusOr<std::map<std::string, TaskRecord>> Solved(int32_t groups, double reward) const;
  // Takes rollouts out of groups that are not in a batch: their bytes go, the groups open again,
  // and `why` is counted.
  absl::Status DropRollouts(const std::vector<std::string>& ids, const std::string& why);

  // Versions of the weights. After a trainer was rolled back to `step`, what it had published later
  // is abandoned until it is published again.
  absl::Status RecordVersion(const Weights& weights);
  absl::Status AbandonVersions(int64_t after_step);
  absl::StatusOr<std::vector<Weights>> Versions() const;  // not abandoned, ascending
  absl::StatusOr<int64_t> VersionCount() const;           // abandoned ones too

  absl::Status SaveEvaluation(const EvaluationRow& row);
  absl::Status SaveUnjudged(const UnjudgedRow& row);
  absl::StatusOr<std::vector<UnjudgedRow>> Unjudged(const std::string& name, bool greedy) const;
  // Ascending by index; bytes are left out unless asked for.
  absl::StatusOr<std::vector<EvaluationRow>> Evaluations(const std::string& name, bool greedy,
                                                         bool bytes = false) const;
  absl::StatusOr<std::vector<EvaluationMean>> EvaluationMeans() const;

  // How often something happened to rollouts: the outcomes, "stale", "abandoned", "refilled",
  // "redrawn".
  absl::Status Count(const std::string& what, int64_t n);
  absl::StatusOr<std::map<std::string, int64_t>> Counts() const;

  absl::StatusOr<RolloutPage> List(const RolloutFilter& filter) const;
  absl::StatusOr<RolloutRow> FindRollout(const std::string& id) const;  // NOT_FOUND

 private:
  explicit Ledger(std::unique_ptr<Database> db) : db_(std::move(db)) {}
  absl::Status CountLocked(const std::string& what, int64_t n) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status DropCutLocked(int64_t group, std::optional<int32_t> sample = {})
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status InsertBatchLocked(const BatchRow& batch) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::StatusOr<std::vector<float>> ReplayedLocked(const std::string& id) const
      ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  mutable absl::Mutex mu_;
  std::unique_ptr<Database> db_ ABSL_GUARDED_BY(mu_);
  int32_t attempt_ ABSL_GUARDED_BY(mu_) = 0;
};

}  // namespace palimpsest::orchestrator
