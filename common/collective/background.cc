#include "common/collective/background.h"

#include <deque>
#include <thread>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"

namespace palimpsest {
namespace {

class BackgroundCollective final : public Collective {
 public:
  explicit BackgroundCollective(std::unique_ptr<Collective> ranks)
      : ranks_(std::move(ranks)), thread_([this] { Serve(); }) {}
  ~BackgroundCollective() override {
    {
      const absl::MutexLock lock(&mu_);
      ending_ = true;
    }
    thread_.join();
  }

  int rank() const override { return ranks_->rank(); }
  int size() const override { return ranks_->size(); }

  Pending BeginAllGather(std::span<const float> mine, std::span<float> all) override {
    return Begin([this, mine, all] { return ranks_->AllGather(mine, all); });
  }
  Pending BeginReduceScatter(std::span<float> all, std::span<float> mine) override {
    return Begin([this, all, mine] { return ranks_->ReduceScatter(all, mine); });
  }

  absl::Status AllGather(std::span<const float> mine, std::span<float> all) override {
    return AfterAll().AllGather(mine, all);
  }
  absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) override {
    return AfterAll().ReduceScatter(all, mine);
  }
  absl::Status AllReduce(std::span<float> values) override { return AfterAll().AllReduce(values); }
  absl::Status Broadcast(int root, std::string& bytes, absl::Duration patience) override {
    return AfterAll().Broadcast(root, bytes, patience);
  }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine) override {
    return AfterAll().AllGatherBytes(mine);
  }
  absl::Status Barrier() override { return AfterAll().Barrier(); }

  // At once: what goes on may be waiting for others.
  void Fail(const absl::Status& why) override { ranks_->Fail(why); }
  absl::Status health() const override { return ranks_->health(); }

 private:
  struct Operation {
    std::function<absl::Status()> work;
    absl::Status result;
    bool done = false;  // guarded by mu_
  };

  Pending Begin(std::function<absl::Status()> work) {
    const auto begun = std::make_shared<Operation>();
    begun->work = std::move(work);
    const absl::MutexLock lock(&mu_);
    queue_.push_back(begun);
    return Pending([this, begun] {
      const absl::MutexLock wait(&mu_, absl::Condition(&begun->done));
      return begun->result;
    });
  }

  // The ranks, when nothing is under way any more.
  Collective& AfterAll() {
    const absl::MutexLock lock(&mu_, absl::Condition(this, &BackgroundCollective::Idle));
    return *ranks_;
  }
  bool Idle() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return queue_.empty(); }
  bool Wanted() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mu_) { return !queue_.empty() || ending_; }

  void Serve() {
    for (;;) {
      std::shared_ptr<Operation> next;
      {
        const absl::MutexLock lock(&mu_, absl::Condition(this, &BackgroundCollective::Wanted));
        if (queue_.empty()) return;
        next = queue_.front();
      }
      const absl::Status result = next->work();
      const absl::MutexLock lock(&mu_);
      next->result = result;
      next->done = true;
      queue_.pop_front();
    }
  }

  const std::unique_ptr<Collective> ranks_;
  absl::Mutex mu_;
  std::deque<std::shared_ptr<Operation>> queue_ ABSL_GUARDED_BY(mu_);  // the first is under way
  bool ending_ ABSL_GUARDED_BY(mu_) = false;
  std::thread thread_;  // last: it uses all others
};

}  // namespace

std::unique_ptr<Collective> InBackground(std::unique_ptr<Collective> ranks) {
  return std::make_unique<BackgroundCollective>(std::move(ranks));
}

}  // namespace palimpsest
