#pragma once

#include <string>

#include "services/orchestrator/core/peers.h"
#include "tests/simulation/network.h"
#include "tests/simulation/told.h"

namespace palimpsest::simulation {

// An environment that judges by Truth. It has no state but the episodes that it hands out.
class SimEnv final : public orchestrator::EnvClient {
 public:
  SimEnv(const Scenario& scenario, Scheduler& scheduler, Network& network)
      : scenario_(scenario),
        scheduler_(scheduler),
        network_(network),
        random_(MixSeed({scenario.seed, Meaning("env")})) {}

  void Die();  // and comes back
  void FailToJudge() { ++unjudged_; }
  void Raise() { ++raised_; }

  absl::StatusOr<std::vector<std::string>> Tasks() override;
  absl::StatusOr<orchestrator::Prompt> Reset(const orchestrator::Episode& episode) override;
  absl::StatusOr<orchestrator::EnvTurn> Step(const orchestrator::Episode& episode,
                                             const std::string& response) override;
  absl::StatusOr<orchestrator::Verdict> Score(const orchestrator::Episode& episode,
                                              const std::string& response) override;
  absl::StatusOr<std::string> Demonstrate(const orchestrator::Episode& episode,
                                          double answer_noise) override;

 private:
  // Works for a while; UNAVAILABLE when it is away or dies meanwhile.
  absl::Status Work();
  absl::StatusOr<orchestrator::Verdict> Judge(const orchestrator::Episode& episode,
                                              const std::string& response);

  const Scenario& scenario_;
  Scheduler& scheduler_;
  Network& network_;
  RandomStream random_;
  int life_ = 0;
  bool up_ = true;
  int unjudged_ = 0, raised_ = 0;  // the next ones
};

}  // namespace palimpsest::simulation
