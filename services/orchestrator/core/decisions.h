#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "services/orchestrator/core/config.h"
#include "services/orchestrator/core/peers.h"

// What comes next in a run: snapshot in, decision out; no clock, no lock, no I/O.
namespace palimpsest::orchestrator {

// Rate of step `step` (from 0) of a stage of `steps`: from begin to end in its shape, and times
// (step + 1) / warmup during the warm-up.
double LearningRateAt(const LearningRate& rate, int32_t warmup, int64_t step, int64_t steps);

// Prompt `index` of a task's split.
Episode PromptOf(const std::string& task, Split split, uint64_t run_seed, int64_t index);
// Prompt `index` of a split; tasks take turns, so that the prompts of each are used once too.
Episode EpisodeOf(const RunPlan& plan, Split split, uint64_t run_seed, int64_t index);

// The seed of draws, by what they are for. A held-out prompt has the same in every evaluation.
uint64_t GroupSeed(uint64_t run_seed, int64_t group);
uint64_t HeldoutSeed(uint64_t run_seed, int64_t index);
// Of the session that plays one sample of an episode: there the sample enters by the seed.
uint64_t SessionSeed(uint64_t group_seed, int32_t sample);

// ---- a supervised stage ----

struct SftSnapshot {
  int64_t steps = 0;              // trained in this stage
  std::vector<double> losses;     // of its steps so far, in order
  int64_t gate_measured_at = -1;  // steps at the last measurement of the gate
  double gate_reward = 0;         // that it gave
};
enum class SftAction { kTrain, kMeasureGate, kEnd };
SftAction NextSftAction(const SftSnapshot& now, const SftConfig& stage);

// ---- reinforcement learning ----

struct RlSnapshot {
  int64_t committed = 0;   // batches formed
  int64_t trained = 0;     // batches in the trainer's weights; committed - 1 or committed
  int64_t served = 0;      // batches in the weights that inference serves; <= trained
  int64_t ready = 0;       // whole groups that no unfinished one stands before
  int64_t pending = 0;     // groups that are in no batch yet, whole or not
  int64_t reopened = 0;    // of these, the ones that lack rollouts and that nobody works at
  int64_t in_flight = 0;   // of these, the ones being generated
  bool paused = false;     // by an operator
  bool evaluated = false;  // the held-out prompts were measured after `served` batches
};
enum class RlAction { kPublish, kEvaluate, kCommit, kAdmit, kTrain, kWait, kDone };

// Groups are admitted in order and batch b (from 0) takes the next prompts_per_batch of them, so a
// group admitted now is trained on weights of b batches: it is admitted only while
// b - served <= max_staleness. At most one batch is formed before it is trained.
RlAction NextRlAction(const RlSnapshot& now, const RlConfig& rl);

// Versions between the weights that made the oldest token and those that are trained. Every step
// publishes one version, so steps of the trainer count them.
int64_t Staleness(int64_t oldest_source_step, int64_t trainer_step);

// ---- after new weights were announced ----

// By what each replica answered. OK when one serves them, or newer ones (FAILED_PRECONDITION); one
// that is UNAVAILABLE finds them by itself, but not all may be; any other failure is told.
absl::Status ServedByFleet(const std::vector<absl::Status>& answers);

// ---- after a trainer came back ----

// Steps whose batches it must get (again), in order: (first, last]; empty when nothing is missing.
// FAILED_PRECONDITION when it is ahead of the ledger: then it belongs to another run.
struct Resubmission {
  int64_t after = 0;
  int64_t through = 0;
};
absl::StatusOr<Resubmission> PlanResubmission(int64_t trainer_step, int64_t ledger_step);

// What ends a response: all that its prompt names, then all that the run does, each once.
std::vector<std::string> StopsOf(const std::vector<std::string>& of_run,
                                 const std::vector<std::string>& of_prompt);

// Runs of consecutive sample numbers of [0, samples) that are not in `have` (ascending): each is
// one request, so that a refilled sample draws what the lost one would have drawn.
struct SampleRun {
  int32_t first = 0;
  int32_t n = 0;
  bool operator==(const SampleRun&) const = default;
};
std::vector<SampleRun> MissingSamples(const std::vector<int32_t>& have, int32_t samples);
// The run in pieces that take at most so many bytes each, or are one sample; `bytes` by sample, 0
// for those that are not there.
std::vector<SampleRun> InPieces(const SampleRun& run, const std::map<int32_t, size_t>& bytes,
                                size_t most);

// Of the weights that made a rollout; 0 without any.
struct VersionRange {
  int64_t min = 0;
  int64_t max = 0;
  bool operator==(const VersionRange&) const = default;
};
VersionRange VersionsOf(const std::vector<rl::Span>& spans);

}  // namespace palimpsest::orchestrator
