#pragma once

#include <memory>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/tokenizer/chat_template.h"
#include "common/tokenizer/tokenizer.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

enum class ServingPhase { kStarting, kServing, kPaused, kDraining };

// The engine of this replica, once there is one, and what the replica admits. Any thread. The
// engine, the tokenizer and the chat template are installed once, by the weights follower, and
// stay.
class Serving {
 public:
  // `chat` is not null where `tokenizer` is not.
  void Install(std::shared_ptr<Engine> engine, std::shared_ptr<const Tokenizer> tokenizer,
               std::shared_ptr<const FolderChat> chat);

  std::shared_ptr<Engine> engine() const;              // null while starting
  std::shared_ptr<const Tokenizer> tokenizer() const;  // null: only ids are understood
  std::shared_ptr<const FolderChat> chat() const;      // null: as tokenizer()
  ServingPhase phase() const;
  // Why the live weights are perhaps not what was trained; OK: they are. Requests are served all
  // the same, only readiness tells.
  absl::Status doubt() const;
  void SetDoubt(absl::Status doubt);

  // The engine for new work: UNAVAILABLE while starting or draining.
  absl::StatusOr<std::shared_ptr<Engine>> Admit() const;
  // The engine for control calls: UNAVAILABLE while starting.
  absl::StatusOr<std::shared_ptr<Engine>> Loaded() const;

  absl::Status Pause();
  absl::Status Resume();
  void StartDraining();  // for good

 private:
  mutable absl::Mutex mu_;
  std::shared_ptr<Engine> engine_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const Tokenizer> tokenizer_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<const FolderChat> chat_ ABSL_GUARDED_BY(mu_);
  absl::Status doubt_ ABSL_GUARDED_BY(mu_);
  bool paused_ ABSL_GUARDED_BY(mu_) = false;
  bool draining_ ABSL_GUARDED_BY(mu_) = false;
};

}  // namespace palimpsest::inference
