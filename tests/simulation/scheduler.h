#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <vector>

#include "common/base/clock.h"
#include "common/base/random.h"
#include "services/orchestrator/engine/threads.h"

namespace palimpsest::simulation {

// Threads of which exactly one runs at a time, and a clock that jumps. A thread runs until it waits
// here; then the seed says which of those that could go on does. When none could, time goes on to
// the first that waits for it. So what happens is a function of the seed, as long as nobody waits
// elsewhere while another holds what it waits for. The thread that makes it is the first one.
class Scheduler final : public Clock, public orchestrator::Threads {
 public:
  explicit Scheduler(uint64_t seed);
  ~Scheduler() override;  // all other threads have ended

  absl::Time Now() override { return now_; }
  void SleepFor(absl::Duration d) override;

  std::unique_ptr<Thread> Start(std::function<void()> work) override;
  void Await(absl::Mutex& mu, const absl::Condition& holds, absl::Duration timeout) override;
  void WaitFor(const absl::Notification& told, absl::Duration timeout) override;

  // Until `holds`, for at most `timeout`; whether it does.
  bool WaitUntil(const std::function<bool()>& holds, absl::Duration timeout);
  // A thread that nobody waits for but AwaitAll.
  void Spawn(std::function<void()> work);
  void AwaitAll();  // all that were spawned; by the first thread

  int64_t turns() const { return turns_; }  // how often one thread followed another

 private:
  struct Task;
  class Handle;

  Task* Add(std::function<void()> work, bool spawned);
  Task* Next();
  void GiveWay();
  void Reap();
  void Forget(Task* task);

  RandomStream random_;
  absl::Time now_;
  int64_t turns_ = 0;
  std::vector<std::unique_ptr<Task>> tasks_;
  Task* current_;
};

}  // namespace palimpsest::simulation
