#include "services/orchestrator/engine/threads.h"

#include <thread>
#include <utility>

namespace palimpsest::orchestrator {
namespace {

class RealThread final : public Threads::Thread {
 public:
  explicit RealThread(std::function<void()> work) : thread_(std::move(work)) {}
  ~RealThread() override { thread_.join(); }

 private:
  std::thread thread_;
};

class RealThreads final : public Threads {
 public:
  std::unique_ptr<Thread> Start(std::function<void()> work) override {
    return std::make_unique<RealThread>(std::move(work));
  }
  void Await(absl::Mutex& mu, const absl::Condition& holds, absl::Duration timeout) override {
    mu.AwaitWithTimeout(holds, timeout);
  }
  void WaitFor(const absl::Notification& told, absl::Duration timeout) override {
    told.WaitForNotificationWithTimeout(timeout);
  }
};

}  // namespace

Threads& SystemThreads() {
  static RealThreads* threads = new RealThreads;
  return *threads;
}

}  // namespace palimpsest::orchestrator
