#pragma once

#include <memory>
#include <vector>

#include "palimpsest/v1/inference.grpc.pb.h"
#include "services/orchestrator/core/peers.h"
#include "services/orchestrator/server/peer.h"

namespace palimpsest::orchestrator {

// A group stays on one replica; when that one is down, on the next.
class GrpcInferenceClient final : public InferenceClient {
 public:
  GrpcInferenceClient(int replicas, const PeerConfig& config);

  absl::StatusOr<ModelFacts> Describe() override;
  absl::StatusOr<std::vector<Sample>> Generate(const GenerateCall& call) override;
  absl::StatusOr<SessionRef> CreateSession(const SessionCall& call) override;
  absl::StatusOr<Sample> StepSession(const SessionStep& step) override;
  void DeleteSession(const SessionRef& session) override;
  absl::Status UpdateWeights(const Weights& weights) override;
  absl::Status AbortAll(const std::string& reason) override;

  std::vector<PeerFacts> Facts() const;

 private:
  using Stub = v1::InferenceService::Stub;

  absl::Status DeleteAllSessions(Peer<Stub>& peer);

  PeerConfig config_;
  std::vector<std::unique_ptr<Peer<Stub>>> peers_;
};

// Reads the answers of one call: exactly one ending for each sample of [first, first + n), else
// those that lack one have failed with `status` (of the stream). For tests, too.
class SampleCollector {
 public:
  SampleCollector(int32_t first, int32_t n);
  void Take(const v1::GenerateResponse& response);
  std::vector<Sample> Finish(const absl::Status& status) &&;

 private:
  int32_t first_;
  std::vector<bool> ended_;
  std::vector<Sample> samples_;
  Sample* Place(int32_t sample);
};

}  // namespace palimpsest::orchestrator
