#pragma once

#include <atomic>
#include <memory>
#include <vector>

#include "palimpsest/v1/environment.grpc.pb.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/server/peer.h"

namespace palimpsest::orchestrator {

// Environments take turns; every answer is a pure function of its episode.
class GrpcEnvClient final : public EnvClient {
 public:
  GrpcEnvClient(int replicas, const PeerConfig& config);

  absl::StatusOr<std::vector<std::string>> Tasks() override;
  absl::StatusOr<Prompt> Reset(const Episode& episode) override;
  absl::StatusOr<EnvTurn> Step(const Episode& episode, const std::string& response) override;
  absl::StatusOr<Verdict> Score(const Episode& episode, const std::string& response) override;
  absl::StatusOr<std::string> Demonstrate(const Episode& episode, double answer_noise) override;

  std::vector<PeerFacts> Facts() const;

 private:
  using Stub = v1::EnvironmentService::Stub;
  Peer<Stub>& Next();

  PeerConfig config_;
  std::vector<std::unique_ptr<Peer<Stub>>> peers_;
  std::atomic<size_t> turn_ = 0;
};

}  // namespace palimpsest::orchestrator
