#include "services/inference/server/serving.h"

namespace palimpsest::inference {

void Serving::Install(std::shared_ptr<Engine> engine, std::shared_ptr<const Tokenizer> tokenizer,
                      std::shared_ptr<const FolderChat> chat) {
  const absl::MutexLock lock(&mu_);
  engine_ = std::move(engine);
  tokenizer_ = std::move(tokenizer);
  chat_ = std::move(chat);
}

std::shared_ptr<Engine> Serving::engine() const {
  const absl::MutexLock lock(&mu_);
  return engine_;
}

std::shared_ptr<const Tokenizer> Serving::tokenizer() const {
  const absl::MutexLock lock(&mu_);
  return tokenizer_;
}

std::shared_ptr<const FolderChat> Serving::chat() const {
  const absl::MutexLock lock(&mu_);
  return chat_;
}

ServingPhase Serving::phase() const {
  const absl::MutexLock lock(&mu_);
  if (draining_) return ServingPhase::kDraining;
  if (engine_ == nullptr) return ServingPhase::kStarting;
  return paused_ ? ServingPhase::kPaused : ServingPhase::kServing;
}

absl::Status Serving::doubt() const {
  const absl::MutexLock lock(&mu_);
  return doubt_;
}

void Serving::SetDoubt(absl::Status doubt) {
  const absl::MutexLock lock(&mu_);
  doubt_ = std::move(doubt);
}

absl::StatusOr<std::shared_ptr<Engine>> Serving::Admit() const {
  const absl::MutexLock lock(&mu_);
  if (draining_) return absl::UnavailableError("draining: this replica admits nothing any more");
  if (engine_ == nullptr) return absl::UnavailableError("starting: no weights are loaded yet");
  return engine_;
}

absl::StatusOr<std::shared_ptr<Engine>> Serving::Loaded() const {
  const absl::MutexLock lock(&mu_);
  if (engine_ == nullptr) return absl::UnavailableError("starting: no weights are loaded yet");
  return engine_;
}

// The lock is held over the engine's call, so that the phase is what the engine was told last.
absl::Status Serving::Pause() {
  const absl::MutexLock lock(&mu_);
  if (engine_ == nullptr) return absl::UnavailableError("starting: no weights are loaded yet");
  if (draining_) return absl::UnavailableError("draining: cannot pause");
  engine_->Pause();
  paused_ = true;
  return absl::OkStatus();
}

absl::Status Serving::Resume() {
  const absl::MutexLock lock(&mu_);
  if (engine_ == nullptr) return absl::UnavailableError("starting: no weights are loaded yet");
  engine_->Resume();
  paused_ = false;
  return absl::OkStatus();
}

// What is frozen goes on, or it could not end.
void Serving::StartDraining() {
  const absl::MutexLock lock(&mu_);
  draining_ = true;
  if (engine_ != nullptr && paused_) engine_->Resume();
  paused_ = false;
}

}  // namespace palimpsest::inference
