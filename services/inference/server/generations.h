#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <string>
#include <thread>
#include <unordered_map>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "services/inference/server/generation.h"

namespace palimpsest::inference {

// All generations by request_id: the running ones, and for a while the finished ones, so that a
// repeated request generates nothing twice. Any thread; an own thread cancels what nobody listens
// to (the engine's thread must not call the engine) and forgets what is too old.
class Generations {
 public:
  struct Options {
    absl::Duration remember;     // how long a finished one can be asked for again
    int64_t remember_bytes = 0;  // of the finished ones together; the oldest go first
    std::function<void(const std::string& request_id)> cancel;
    std::function<void(rl::Outcome)> sample_ended;
  };
  struct Joined {
    std::shared_ptr<Generation> generation;
    bool created = false;  // then the caller submits it, and accepts or refuses
  };

  Generations(Options options, Clock& clock);
  ~Generations();

  // ALREADY_EXISTS names the first field in which the request differs from the one of this id.
  absl::StatusOr<Joined> Join(const v1::GenerateRequest& request);
  absl::StatusOr<Joined> Join(const v1::StepSessionRequest& request);
  // A refused one: the next request of this id is a new one.
  void Forget(const Generation& generation);

  int running() const;
  int remembered() const;

 private:
  struct Finished {
    std::string id;
    const Generation* generation;
    absl::Time expires;
    int64_t bytes;
  };

  template <class Request>
  absl::StatusOr<Joined> JoinOrMake(const Request& request);
  void Ended(const Generation& generation);
  void Abandoned(const Generation& generation);
  void Erase(const Generation& generation) ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Expire() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_);
  void Run();

  const Options options_;
  Clock& clock_;

  mutable absl::Mutex mu_;
  std::unordered_map<std::string, std::shared_ptr<Generation>> by_id_ ABSL_GUARDED_BY(mu_);
  std::deque<Finished> finished_ ABSL_GUARDED_BY(mu_);  // by `expires`
  int64_t finished_bytes_ ABSL_GUARDED_BY(mu_) = 0;
  std::deque<std::string> to_cancel_ ABSL_GUARDED_BY(mu_);  // at most one per generation
  bool stopping_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses all of the above
};

}  // namespace palimpsest::inference
