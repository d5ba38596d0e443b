#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "common/context/policy.h"
#include "common/weights/store.h"
#include "services/orchestrator/core/peers.h"
#include "tests/simulation/network.h"
#include "tests/simulation/promises.h"

namespace palimpsest::simulation {

// Replicas that sample by Respond and follow the weights store with its real reader: they poll,
// obey announcements, verify, flip in the middle of what runs, acknowledge. Which replica is asked,
// and what an answer that broke off means, is as in server/inference_client.h.
class SimInference final : public orchestrator::InferenceClient {
 public:
  SimInference(const Scenario& scenario, std::string store, Scheduler& scheduler, Network& network,
               History& history, Promises& promises);

  void Die(size_t replica);  // and comes back
  void LoseSample() { ++lost_samples_; }
  void LoseSession() { ++lost_sessions_; }
  void End() { ending_ = true; }  // the replicas follow no longer
  size_t replicas() const { return replicas_.size(); }
  int64_t open_sessions() const;
  int64_t continued() const { return continued_; }  // samples that ended behind a cut
  int64_t continued_episodes() const { return continued_episodes_; }  // sessions made from a log
  int64_t continued_events() const { return continued_events_; }      // in both, by then

  absl::StatusOr<orchestrator::ModelFacts> Describe() override;
  absl::StatusOr<std::vector<orchestrator::Sample>> Generate(
      const orchestrator::GenerateCall& call) override;
  absl::StatusOr<orchestrator::SessionRef> CreateSession(
      const orchestrator::SessionCall& call) override;
  absl::StatusOr<orchestrator::Sample> StepSession(const orchestrator::SessionStep& step) override;
  void DeleteSession(const orchestrator::SessionRef& session) override;
  absl::Status UpdateWeights(const orchestrator::Weights& weights) override;
  absl::Status AbortAll(const std::string& reason) override;

 private:
  struct Session {
    rl::Rollout rollout;
    context::ContextPolicy context;
  };
  struct Replica {
    std::string name;
    int life = 0;
    bool up = false;
    int running = 0;
    int64_t version = 0;  // that is live
    std::unique_ptr<weights::StoreReader> reader;
    std::map<std::string, Session> sessions;
  };
  class Running;

  void Follow(Replica& replica);
  // The store's newest, or `wanted`, becomes live.
  absl::Status Take(Replica& replica, std::optional<int64_t> wanted);
  absl::StatusOr<std::string> ReadVersion(Replica& replica, int64_t version) const;
  absl::StatusOr<int64_t> Newest(const Replica& replica) const;
  absl::Status MaySample(const Replica& replica, std::optional<PolicyVersion> min_version) const;
  // Appends a response, or what is left of one that was cut, with the events that fall due. What
  // there is by then stands there, too, when the replica died or there were more than `aborts`
  // aborts.
  absl::Status Say(Replica& replica, int aborts, uint64_t seed, int32_t turn,
                   const context::ContextPolicy& context, rl::Rollout& rollout, std::string& text);
  void GoOn(const context::ContextPolicy& context, const rl::Rollout& begun);
  absl::StatusOr<std::vector<orchestrator::Sample>> Serve(Replica& replica,
                                                          const orchestrator::GenerateCall& call);
  absl::StatusOr<orchestrator::Sample> ServeStep(Replica& replica,
                                                 const orchestrator::SessionStep& step);
  bool IsLost(int& left);

  const Scenario& scenario_;
  const std::string store_;
  Scheduler& scheduler_;
  Network& network_;
  History& history_;
  Promises& promises_;
  RandomStream random_;
  std::vector<std::unique_ptr<Replica>> replicas_;
  bool ending_ = false;
  int lost_samples_ = 0, lost_sessions_ = 0;  // the next ones
  int made_sessions_ = 0;
  int aborts_ = 0;
  int64_t continued_ = 0, continued_episodes_ = 0, continued_events_ = 0;
  int asking_ = 0, playing_ = 0;  // requests and sessions of the orchestrator, now
};

}  // namespace palimpsest::simulation
