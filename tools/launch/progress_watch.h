#pragma once

#include <functional>
#include <memory>
#include <string>

#include "common/rpc/tls.h"
#include "palimpsest/v1/orchestrator.pb.h"

namespace palimpsest::tools {

// Follows the orchestrator of a run, through restarts of it, on a thread of its own. Looks for its
// address in the run's folder and asks again while there is none.
class ProgressWatch {
 public:
  // `show` is called on the watch's thread with each message. `tls`: of an operator.
  ProgressWatch(const std::string& run_folder, const Tls& tls,
                std::function<void(const v1::Progress&)> show);
  ~ProgressWatch();  // cancels the call and joins

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest::tools
