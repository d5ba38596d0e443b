#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "services/inference/core/engine.h"
#include "tests/unit/services/inference/server/scripted_sessions.h"

namespace palimpsest::inference {

// An engine that does what the test says, when it says it. Sinks are called under its lock, so a
// sink that called the engine back would hang: the contract forbids it. Any thread.
class ScriptedEngine final : public Engine {
 public:
  explicit ScriptedEngine(PolicyVersion version = PolicyVersion(1), int32_t vocab = 300);

  // Script.
  void RefuseNext(absl::Status status);
  void FinishInsideSubmit(int tokens);  // each request is over before Submit returns
  // One token for every running sample of the request: ids 10, 11, ... with `text`.
  void Token(const std::string& request_id, const std::string& text = "x");
  void Compact(const std::string& request_id);
  void Finish(const std::string& request_id);
  void Fail(const std::string& request_id, absl::Status status, bool retryable,
            rl::Outcome outcome);
  void RefuseFolders(absl::Status status);
  void Lose(absl::Status why);
  void OfferSessions(const std::string& prefix) { sessions_.emplace(prefix); }  // of their ids

  // Record.
  bool WaitForSubmissions(size_t count);  // within 10 s
  bool WaitForCancel(const std::string& request_id);
  GenerationRequest submission(size_t index) const;
  size_t submissions() const;
  std::vector<std::string> folders() const;
  bool paused() const;

  absl::Status Submit(GenerationRequest request, std::shared_ptr<GenerationSink> sink) override;
  void Cancel(const std::string& request_id) override;
  int AbortAll(const std::string& client, const std::string& reason) override;
  absl::StatusOr<ScoreResult> Score(const ScoreRequest& request) override;
  absl::StatusOr<UpdateResult> UpdateWeights(const std::string& folder, PolicyVersion version,
                                             WeightsMode mode) override;
  void Pause() override;
  void Resume() override;
  void Drain(absl::Duration grace) override;
  Sessions* sessions() override { return sessions_.has_value() ? &*sessions_ : nullptr; }
  PolicyVersion version() const override;
  const ModelInfo& model() const override { return model_; }
  const Limits& limits() const override { return limits_; }
  Load load() const override;
  absl::Status lost() const override;

 private:
  struct Running {
    GenerationRequest request;
    std::shared_ptr<GenerationSink> sink;
    int sampled = 0;
  };
  rl::Rollout RolloutOf(const Running& running, int32_t sample) const;
  void TokenOf(Running& running, const std::string& text);
  void FinishOf(const Running& running);
  void FailOf(const Running& running, const absl::Status& status, bool retryable,
              rl::Outcome outcome);

  const ModelInfo model_;
  const Limits limits_;
  std::optional<ScriptedSessions> sessions_;  // of their own lock
  mutable absl::Mutex mu_;
  PolicyVersion version_;
  absl::Status refuse_next_;
  absl::Status folder_status_, lost_;
  int inside_submit_ = -1;
  bool paused_ = false;
  bool draining_ = false;
  std::map<std::string, Running> running_;
  std::vector<GenerationRequest> submissions_;
  std::vector<std::string> cancelled_;
  std::vector<std::string> folders_;
};

}  // namespace palimpsest::inference
