#include "tests/unit/services/inference/server/scripted_engine.h"

#include <algorithm>

namespace palimpsest::inference {

ScriptedEngine::ScriptedEngine(PolicyVersion version, int32_t vocab)
    : model_{.architecture = "qwen3",
             .dtype = "float32",
             .layers = 2,
             .heads = 4,
             .kv_heads = 2,
             .head_dim = 8,
             .hidden = 32,
             .vocab = vocab,
             .max_position = 1024,
             .stop_ids = {256}},
      limits_{.max_running = 4, .max_queued = 8, .max_samples = 4, .kv_pool_bytes = 1 << 20},
      version_(version) {}

void ScriptedEngine::RefuseNext(absl::Status status) {
  const absl::MutexLock lock(&mu_);
  refuse_next_ = std::move(status);
}

void ScriptedEngine::FinishInsideSubmit(int tokens) {
  const absl::MutexLock lock(&mu_);
  inside_submit_ = tokens;
}

void ScriptedEngine::Token(const std::string& request_id, const std::string& text) {
  const absl::MutexLock lock(&mu_);
  if (const auto it = running_.find(request_id); it != running_.end()) TokenOf(it->second, text);
}

void ScriptedEngine::Compact(const std::string& request_id) {
  const absl::MutexLock lock(&mu_);
  Running& running = running_.at(request_id);
  context::Event event{.at = 3, .window = {0, 2}, .method = context::Method::kMarkovian};
  event.kept = context::KeptPositions({2, 2});
  for (int head = 0; head < 4; ++head) event.kept.AddHead({});
  running.sink->OnEvent(running.request.first_sample, event);
}

void ScriptedEngine::Finish(const std::string& request_id) {
  const absl::MutexLock lock(&mu_);
  FinishOf(running_.at(request_id));
  running_.erase(request_id);
}

void ScriptedEngine::Fail(const std::string& request_id, absl::Status status, bool retryable,
                          rl::Outcome outcome) {
  const absl::MutexLock lock(&mu_);
  FailOf(running_.at(request_id), status, retryable, outcome);
  running_.erase(request_id);
}

void ScriptedEngine::RefuseFolders(absl::Status status) {
  const absl::MutexLock lock(&mu_);
  folder_status_ = std::move(status);
}

bool ScriptedEngine::WaitForSubmissions(size_t count) {
  const auto there = [&] { return submissions_.size() >= count; };
  const absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(10));
}

bool ScriptedEngine::WaitForCancel(const std::string& request_id) {
  const auto there = [&] {
    return std::find(cancelled_.begin(), cancelled_.end(), request_id) != cancelled_.end();
  };
  const absl::MutexLock lock(&mu_);
  return mu_.AwaitWithTimeout(absl::Condition(&there), absl::Seconds(10));
}

GenerationRequest ScriptedEngine::submission(size_t index) const {
  const absl::MutexLock lock(&mu_);
  return submissions_.at(index);
}

size_t ScriptedEngine::submissions() const {
  const absl::MutexLock lock(&mu_);
  return submissions_.size();
}

std::vector<std::string> ScriptedEngine::folders() const {
  const absl::MutexLock lock(&mu_);
  return folders_;
}

bool ScriptedEngine::paused() const {
  const absl::MutexLock lock(&mu_);
  return paused_;
}

absl::Status ScriptedEngine::Submit(GenerationRequest request,
                                    std::shared_ptr<GenerationSink> sink) {
  const absl::MutexLock lock(&mu_);
  if (draining_) return absl::UnavailableError("draining");
  if (!refuse_next_.ok()) return std::exchange(refuse_next_, absl::OkStatus());
  submissions_.push_back(request);
  Running running{std::move(request), std::move(sink), 0};
  if (inside_submit_ >= 0) {
    for (int i = 0; i < inside_submit_; ++i) TokenOf(running, "x");
    FinishOf(running);
    return absl::OkStatus();
  }
  const std::string id = running.request.request_id;
  running_.emplace(id, std::move(running));
  return absl::OkStatus();
}

void ScriptedEngine::Cancel(const std::string& request_id) {
  const absl::MutexLock lock(&mu_);
  cancelled_.push_back(request_id);
  const auto it = running_.find(request_id);
  if (it == running_.end()) return;
  FailOf(it->second, absl::CancelledError("cancelled"), false, rl::Outcome::kCancelled);
  running_.erase(it);
}

int ScriptedEngine::AbortAll(const std::string& client, const std::string& reason) {
  const absl::MutexLock lock(&mu_);
  int aborted = 0;
  std::erase_if(running_, [&](auto& entry) {
    if (!client.empty() && entry.second.request.client != client) return false;
    FailOf(entry.second, absl::CancelledError(reason), true, rl::Outcome::kCancelled);
    aborted += entry.second.request.n;
    return true;
  });
  return aborted;
}

absl::StatusOr<ScoreResult> ScriptedEngine::Score(const ScoreRequest& request) {
  const absl::MutexLock lock(&mu_);
  ScoreResult result{.version = version_};
  for (size_t i = 1; i < request.tokens.size(); ++i) {
    result.logprobs.push_back(static_cast<float>(-request.temperature * request.tokens[i]));
    if (!request.top) continue;
    result.top.emplace_back();
    for (int32_t k = 0; k < *request.top; ++k) {
      result.top.back().ids.push_back(request.tokens[i] + k);
      result.top.back().logprobs.push_back(static_cast<float>(-k));
    }
  }
  return result;
}

absl::StatusOr<UpdateResult> ScriptedEngine::UpdateWeights(const std::string& folder,
                                                           PolicyVersion version, WeightsMode) {
  const absl::MutexLock lock(&mu_);
  folders_.push_back(folder);
  if (!folder_status_.ok()) return folder_status_;
  version_ = version;
  return UpdateResult{.version = version, .load_seconds = 0.5, .flip_seconds = 0.25};
}

void ScriptedEngine::Pause() {
  const absl::MutexLock lock(&mu_);
  paused_ = true;
}

void ScriptedEngine::Resume() {
  const absl::MutexLock lock(&mu_);
  paused_ = false;
}

void ScriptedEngine::Drain(absl::Duration grace) {
  const absl::MutexLock lock(&mu_);
  draining_ = true;
  for (auto& [id, running] : running_) {
    if (grace > absl::ZeroDuration()) {
      FinishOf(running);
    } else {
      FailOf(running, absl::CancelledError("drained"), true, rl::Outcome::kCancelled);
    }
  }
  running_.clear();
}

PolicyVersion ScriptedEngine::version() const {
  const absl::MutexLock lock(&mu_);
  return version_;
}

Load ScriptedEngine::load() const {
  const absl::MutexLock lock(&mu_);
  return {.running = static_cast<int32_t>(running_.size()), .kv_bytes_free = 77};
}

absl::Status ScriptedEngine::lost() const {
  const absl::MutexLock lock(&mu_);
  return lost_;
}
void ScriptedEngine::Lose(absl::Status why) {
  const absl::MutexLock lock(&mu_);
  lost_ = std::move(why);
}

rl::Rollout ScriptedEngine::RolloutOf(const Running& running, int32_t sample) const {
  const auto prompt = static_cast<int32_t>(running.request.prompt.size());
  rl::Rollout rollout{.id = running.request.request_id,
                      .tokens = running.request.prompt,
                      .prompt_tokens = prompt,
                      .sample = sample};
  rollout.origins.assign(prompt, rl::Origin::kPrompt);
  rollout.logprobs.assign(prompt, 0);
  for (int i = 0; i < running.sampled; ++i) {
    rollout.tokens.push_back(10 + i);
    rollout.origins.push_back(rl::Origin::kSampled);
    rollout.logprobs.push_back(-1);
  }
  if (running.sampled > 0) rollout.spans = {{prompt, prompt + running.sampled, version_, 0}};
  return rollout;
}

void ScriptedEngine::TokenOf(Running& running, const std::string& text) {
  const auto prompt = static_cast<int32_t>(running.request.prompt.size());
  for (int32_t i = 0; i < running.request.n; ++i) {
    running.sink->OnTokens({.sample = running.request.first_sample + i,
                            .begin = prompt + running.sampled,
                            .ids = {10 + running.sampled},
                            .logprobs = {-1},
                            .origins = {rl::Origin::kSampled},
                            .text = text,
                            .version = version_});
  }
  ++running.sampled;
}

void ScriptedEngine::FinishOf(const Running& running) {
  for (int32_t i = 0; i < running.request.n; ++i) {
    const int32_t sample = running.request.first_sample + i;
    running.sink->OnFinished(
        {.sample = sample, .rollout = RolloutOf(running, sample), .text = "all"});
  }
}

void ScriptedEngine::FailOf(const Running& running, const absl::Status& status, bool retryable,
                            rl::Outcome outcome) {
  for (int32_t i = 0; i < running.request.n; ++i) {
    const int32_t sample = running.request.first_sample + i;
    running.sink->OnFailure({.sample = sample,
                             .status = status,
                             .retryable = retryable,
                             .outcome = outcome,
                             .partial = RolloutOf(running, sample)});
  }
}

}  // namespace palimpsest::inference
