#include "tests/simulation/scheduler.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <semaphore>
#include <thread>
#include <utility>

namespace palimpsest::simulation {

struct Scheduler::Task {
  // Outlives the task while who gives it the turn still holds it.
  std::shared_ptr<std::binary_semaphore> turn = std::make_shared<std::binary_semaphore>(0);
  std::function<bool()> holds;              // goes on when this holds,
  absl::Time until = absl::InfinitePast();  // and from then on anyhow
  bool spawned = false;
  bool ended = false;
  std::thread thread;
};

class Scheduler::Handle final : public orchestrator::Threads::Thread {
 public:
  Handle(Scheduler& scheduler, Task* task) : scheduler_(scheduler), task_(task) {}
  ~Handle() override {
    scheduler_.WaitUntil([this] { return task_->ended; }, absl::InfiniteDuration());
    scheduler_.Forget(task_);
  }

 private:
  Scheduler& scheduler_;
  Task* task_;
};

Scheduler::Scheduler(uint64_t seed)
    : random_(MixSeed({seed, Meaning("order of threads")})), now_(absl::FromUnixSeconds(1 << 30)) {
  tasks_.push_back(std::make_unique<Task>());
  current_ = tasks_.front().get();
}

Scheduler::~Scheduler() { Reap(); }

Scheduler::Task* Scheduler::Add(std::function<void()> work, bool spawned) {
  Task* task = tasks_.emplace_back(std::make_unique<Task>()).get();
  task->spawned = spawned;
  task->thread = std::thread([this, task, work = std::move(work)] {
    task->turn->acquire();
    work();
    task->ended = true;
    current_ = Next();
    const auto turn = current_->turn;
    turn->release();
  });
  return task;
}

std::unique_ptr<orchestrator::Threads::Thread> Scheduler::Start(std::function<void()> work) {
  return std::make_unique<Handle>(*this, Add(std::move(work), false));
}

void Scheduler::Spawn(std::function<void()> work) {
  Reap();
  Add(std::move(work), true);
}

void Scheduler::AwaitAll() {
  const auto alone = [this] {
    return std::all_of(tasks_.begin(), tasks_.end(),
                       [](const auto& task) { return !task->spawned || task->ended; });
  };
  WaitUntil(alone, absl::InfiniteDuration());
  Reap();
}

void Scheduler::Forget(Task* task) {
  task->thread.join();
  std::erase_if(tasks_, [task](const auto& other) { return other.get() == task; });
}

void Scheduler::Reap() {
  std::erase_if(tasks_, [](const auto& task) {
    if (!task->spawned || !task->ended) return false;
    task->thread.join();
    return true;
  });
}

Scheduler::Task* Scheduler::Next() {
  ++turns_;
  std::vector<Task*> able;
  for (;;) {
    absl::Time soonest = absl::InfiniteFuture();
    for (const auto& task : tasks_) {
      if (task->ended) continue;
      if (task->until <= now_ || (task->holds != nullptr && task->holds())) {
        able.push_back(task.get());
      } else {
        soonest = std::min(soonest, task->until);
      }
    }
    if (!able.empty()) return able[static_cast<size_t>(random_.Below(std::ssize(able)))];
    if (soonest == absl::InfiniteFuture()) {
      std::fputs("simulation: every thread waits for another, for ever\n", stderr);
      std::abort();
    }
    now_ = soonest;
  }
}

void Scheduler::GiveWay() {
  Task* self = current_;
  current_ = Next();
  if (current_ == self) return;
  const auto turn = current_->turn;
  turn->release();
  self->turn->acquire();
}

bool Scheduler::WaitUntil(const std::function<bool()>& holds, absl::Duration timeout) {
  Task* self = current_;
  self->holds = holds;
  self->until = now_ + timeout;
  GiveWay();
  self->holds = nullptr;
  self->until = absl::InfinitePast();
  return holds != nullptr && holds();
}

void Scheduler::SleepFor(absl::Duration d) { WaitUntil(nullptr, d); }

void Scheduler::Await(absl::Mutex& mu, const absl::Condition& holds, absl::Duration timeout) {
  mu.Unlock();
  WaitUntil(
      [&] {
        absl::MutexLock lock(&mu);
        return holds.Eval();
      },
      timeout);
  mu.Lock();
}

void Scheduler::WaitFor(const absl::Notification& told, absl::Duration timeout) {
  WaitUntil([&told] { return told.HasBeenNotified(); }, timeout);
}

}  // namespace palimpsest::simulation
