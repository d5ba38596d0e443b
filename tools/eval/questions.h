#pragma once

#include <map>
#include <memory>
#include <string>
#include <utility>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "tools/eval/peers.h"

namespace palimpsest::tools::eval {

// A prompt and its tokens.
struct Asked {
  Question question;
  std::vector<int32_t> ids;  // not empty
};

// Prompts of one split and seed; each is asked for once and kept. Any thread.
class Questions {
 public:
  explicit Questions(Peers& peers) : peers_(peers) {}

  // Whoever comes while it is being asked for waits; what failed is asked for again.
  absl::StatusOr<std::shared_ptr<const Asked>> Get(const AnswerKey& key);

 private:
  struct Slot {
    absl::Mutex mu;
    std::shared_ptr<const Asked> asked ABSL_GUARDED_BY(mu);
  };
  Slot& Find(const AnswerKey& key);

  Peers& peers_;
  absl::Mutex mu_;
  std::map<std::pair<std::string, int64_t>, Slot> slots_ ABSL_GUARDED_BY(mu_);
};

}  // namespace palimpsest::tools::eval
