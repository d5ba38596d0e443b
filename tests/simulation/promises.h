#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "common/context/policy.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/engine/ledger.h"
#include "tests/simulation/history.h"
#include "tests/simulation/scenario.h"
#include "tests/simulation/told.h"

namespace palimpsest::simulation {

// What a trainer tells of a rollout that it replayed in `step`.
std::vector<float> ReplayOf(int64_t step, const rl::Rollout& rollout);

// Holds a history to what design.md section 8 promises. The peers tell it what they see, the
// simulation shows it the ledger between two attempts and at the end. One thread at a time.
//
//   tokens    no token without version, log-probability and origin, and all of them true
//   rewards   every reward is what the environment says of the response; none comes of a failure
//   accepted  what the ledger has committed is there after any death, and is trained or counted
//   batches   the weights contain each batch once, in order, with the same contents each time
//   events    the log of a rollout is the one it was made with, whole, wherever it went on
//   replays   what is kept of a replay is that of its rollout and step, and whole
//   prompts   none is skipped or used twice
//   staleness no rollout is older than the bound when it is trained, and none comes of the future
//   weights   what is served is what was published, whole; held-out numbers are of what they say
//   queues    every queue is bounded
//   liveness  with a finite number of faults the run ends, in bounded time, and without an error
class Promises {
 public:
  Promises(const Scenario& scenario, uint64_t run_seed, History& history)
      : scenario_(scenario), run_seed_(run_seed), history_(history) {}

  // A version stands whole in the store; `contents` are its weights.
  void Published(int64_t version, int64_t step, const std::string& contents);
  void Served(int64_t version, const std::string& contents);
  void BatchCame(const orchestrator::TrainBatch& batch);
  // A replica is to go on with what there is of a rollout.
  void GoesOn(const context::ContextPolicy& policy, const rl::Rollout& begun);
  void Asking(int requests, int sessions);  // of the orchestrator, at once

  // The orchestrator has told that it accepted so many rollouts, in all attempts.
  void Acknowledged(int64_t accepted) { acknowledged_ = std::max(acknowledged_, accepted); }
  int64_t trained_events() const { return trained_events_; }  // of all batches
  // After each attempt.
  void Look(const orchestrator::Ledger& ledger);
  // After the last one. `trained`: ids of the batches in the trainer's weights.
  void LookAtTheEnd(const orchestrator::Ledger& ledger, const std::vector<std::string>& trained,
                    int64_t durable_step, int64_t open_sessions);

 private:
  struct Group {
    std::string prompt;
    std::set<int32_t> samples;
  };
  void Expect(bool holds, const std::string& promise, const std::string& how);
  void CheckItem(const orchestrator::TrainBatch& batch, const orchestrator::RlItem& item,
                 std::map<std::string, Group>& groups);
  void CheckGroups(const orchestrator::TrainBatch& batch,
                   const std::map<std::string, Group>& groups);
  int64_t CheckNumbering(const orchestrator::Ledger& ledger);
  void CheckConservation(const orchestrator::Ledger& ledger);
  void CheckBatches(const orchestrator::Ledger& ledger, const std::vector<std::string>& trained);
  void CheckHeldout(const orchestrator::Ledger& ledger, const std::string& name, int64_t step);

  const Scenario& scenario_;
  const uint64_t run_seed_;
  History& history_;
  std::map<int64_t, std::string> contents_;                 // of versions
  std::map<int64_t, int64_t> step_of_;                      // version
  std::map<int64_t, std::string> batches_;                  // by step, as they came first
  std::map<int64_t, std::map<std::string, Group>> groups_;  // of RL batches, by step
  std::map<std::string, std::vector<float>> replayed_;      // by rollout
  std::map<std::string, int32_t> events_;                   // that it has; likewise
  int64_t trained_events_ = 0;
  int64_t acknowledged_ = 0;
};

}  // namespace palimpsest::simulation
