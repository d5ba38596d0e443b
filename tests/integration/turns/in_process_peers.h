#pragma once

#include <memory>
#include <string>
#include <vector>

#include "services/env/core/environment.h"
#include "services/inference/core/engine.h"
#include "services/orchestrator/core/peers.h"

namespace palimpsest::orchestrator {

// A built-in task of several turns as the orchestrator sees it.
class TaskClient final : public EnvClient {
 public:
  explicit TaskClient(std::unique_ptr<const env::Environment> task) : task_(std::move(task)) {}
  absl::StatusOr<std::vector<std::string>> Tasks() override;
  absl::StatusOr<Prompt> Reset(const Episode& episode) override;
  absl::StatusOr<EnvTurn> Step(const Episode& episode, const std::string& response) override;
  absl::StatusOr<Verdict> Score(const Episode& episode, const std::string& response) override;
  absl::StatusOr<std::string> Demonstrate(const Episode& episode, double noise) override;

 private:
  std::unique_ptr<const env::Environment> task_;
};

// The sessions of one engine.
class EngineClient final : public InferenceClient {
 public:
  explicit EngineClient(inference::Engine& engine) : engine_(engine) {}
  absl::StatusOr<ModelFacts> Describe() override;
  absl::StatusOr<std::vector<Sample>> Generate(const GenerateCall& call) override;
  absl::StatusOr<SessionRef> CreateSession(const SessionCall& call) override;
  absl::StatusOr<Sample> StepSession(const SessionStep& step) override;
  void DeleteSession(const SessionRef& session) override;
  absl::Status UpdateWeights(const Weights& weights) override;
  absl::Status AbortAll(const std::string& reason) override;

 private:
  inference::Engine& engine_;
};

// Nobody trains here, and nothing is encoded.
class NoTrainer final : public TrainerClient {
 public:
  absl::StatusOr<TrainerStatus> Status() override { return absl::UnimplementedError("trainer"); }
  absl::StatusOr<TrainResult> Train(const TrainBatch&) override { return Status().status(); }
  absl::StatusOr<Weights> Publish(int64_t) override { return Status().status(); }
  absl::StatusOr<int64_t> SaveCheckpoint() override { return Status().status(); }
};
class NoCodec final : public RolloutCodec {
 public:
  std::string Encode(const rl::Rollout&) const override { return ""; }
  absl::StatusOr<rl::Rollout> Decode(std::string_view) const override {
    return absl::UnimplementedError("codec");
  }
};

}  // namespace palimpsest::orchestrator
