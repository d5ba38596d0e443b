#pragma once

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/engine/run.h"
#include "services/orchestrator/server/messages.h"

namespace palimpsest::orchestrator {

// Env, inference and trainer as small honest machines: the reward of a response rises with the
// version that made it. The task "talk" takes three turns and judges the last. What a run did to
// them can be read afterwards. Any thread.
class FakeWorld : public EnvClient, public InferenceClient, public TrainerClient {
 public:
  explicit FakeWorld(std::string folder);

  // After this many more calls every call fails for good, as if the orchestrator had died there.
  void DieAfter(int calls);
  bool dead() const { return dead_; }
  void Revive();
  // The trainer is killed and comes back at its last checkpoint. True when that is another step:
  // it has then published its weights again, and inference serves them.
  bool RollTrainerBack();
  // The weights of the step before stand in the store under the highest number, and are served.
  void ServeOlderWeights();

  // Each makes the next calls fail so.
  std::atomic<int> unavailable = 0;    // calls of any peer
  std::atomic<int> lost_samples = 0;   // samples end as infra_failed
  std::atomic<int> cut_samples = 0;    // samples end as cancelled, in the middle
  bool refuse_begun = false;           // no sample goes on from its log; set before the run
  std::atomic<int> lost_sessions = 0;  // steps find their session gone
  std::atomic<int> cut_turns = 0;      // later turns end as cancelled, in the middle
  std::atomic<int> lost_turns = 0;     // later turns find their session gone
  std::atomic<int> unjudged = 0;       // scores end as task_failed
  std::atomic<int> raised = 0;         // turns of the environment fail
  std::atomic<int> raised_resets = 0;  // prompts fail
  std::atomic<int> hung_resets = 0;    // what makes prompts is lost
  int64_t cursed_prompt = -1;          // the train prompt that always fails; set before the run
  int64_t cursed_heldout = -1;         // likewise, of the held-out ones
  std::atomic<int64_t> damaged = 0;    // the version that inference cannot read
  std::atomic<int64_t> unheard = 0;    // the step whose first answer is lost
  bool long_observations = false;      // as the response says by its last digit; set before the run
  int64_t dull_below = 0;  // rewards of train prompts below are all equal; set before the run
  std::atomic<bool> keep_old_weights =
      false;  // rollouts of groups say that the first version made them
  int checkpoint_every = 1;
  std::function<void()> before_generate;  // set before the run begins; by any thread

  absl::StatusOr<std::vector<std::string>> Tasks() override;
  absl::StatusOr<Prompt> Reset(const Episode& episode) override;
  absl::StatusOr<EnvTurn> Step(const Episode& episode, const std::string& response) override;
  absl::StatusOr<Verdict> Score(const Episode& episode, const std::string& response) override;
  absl::StatusOr<std::string> Demonstrate(const Episode& episode, double noise) override;
  absl::StatusOr<ModelFacts> Describe() override;
  absl::StatusOr<std::vector<Sample>> Generate(const GenerateCall& call) override;
  absl::StatusOr<SessionRef> CreateSession(const SessionCall& call) override;
  absl::StatusOr<Sample> StepSession(const SessionStep& step) override;
  void DeleteSession(const SessionRef& session) override;
  absl::Status UpdateWeights(const Weights& weights) override;
  absl::Status AbortAll(const std::string& reason) override;
  absl::StatusOr<TrainerStatus> Status() override;
  absl::StatusOr<TrainResult> Train(const TrainBatch& batch) override;
  absl::StatusOr<Weights> Publish(int64_t step) override;
  absl::StatusOr<int64_t> SaveCheckpoint() override;

  Peers peers() { return {*this, *this, *this, codec_}; }

  // What the trainer's weights contain: batch ids by step.
  std::vector<std::string> TrainedBatches() const;
  // Contents of the batch of each step; a resubmission that differs is counted.
  std::map<int64_t, std::string> contents() const;
  int changed_batches() const { return changed_batches_; }
  std::multiset<int64_t> trained_prompts() const;  // train indices in the weights, per group
  std::vector<int64_t> staleness() const;          // of each trained rollout, in steps
  std::vector<double> rates() const;
  size_t open_sessions() const;
  int made_sessions() const { return made_sessions_; }
  int heldout_resets() const { return heldout_resets_; }
  int continued() const { return continued_; }  // samples that went on from their logs
  int said() const { return said_; }            // whole responses, of episodes of several turns

 private:
  void WriteVersion(int64_t version);
  void PublishNow() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  absl::Status Enter();
  int64_t StepOf(int64_t version) const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  std::string folder_;
  WireRolloutCodec codec_;
  mutable absl::Mutex mu_;
  std::atomic<bool> dead_ = false;
  int calls_left_ ABSL_GUARDED_BY(mu_) = -1;
  struct TrainedStep {
    std::string id;
    std::set<std::string> groups;
    std::vector<int64_t> staleness;
    double rate = 0;
  };
  std::vector<TrainedStep> steps_ ABSL_GUARDED_BY(mu_);  // in the weights
  int64_t durable_ ABSL_GUARDED_BY(mu_) = 0;
  std::vector<Weights> published_ ABSL_GUARDED_BY(mu_);
  int64_t served_ ABSL_GUARDED_BY(mu_) = 1;
  std::map<int64_t, std::string> contents_ ABSL_GUARDED_BY(mu_);
  std::map<std::string, rl::Rollout> sessions_ ABSL_GUARDED_BY(mu_);
  std::atomic<int> made_sessions_ = 0;
  std::atomic<int> heldout_resets_ = 0;
  std::atomic<int> continued_ = 0;
  std::atomic<int> said_ = 0;
  std::atomic<int> changed_batches_ = 0;
};

}  // namespace palimpsest::orchestrator
