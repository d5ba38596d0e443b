#pragma once

#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "palimpsest/v1/orchestrator.pb.h"

namespace palimpsest::tools {

// stderr: messages, and below them the panel, which is drawn over itself on a terminal and is one
// line per change elsewhere. Any thread.
class Screen {
 public:
  Screen();
  void Say(const std::string& message);
  void Show(const v1::Progress& progress);

 private:
  void Wipe() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);

  const bool terminal_;
  absl::Mutex mu_;
  int drawn_ ABSL_GUARDED_BY(mu_) = 0;  // lines of the panel that stand
  std::string last_line_ ABSL_GUARDED_BY(mu_);
};

}  // namespace palimpsest::tools
