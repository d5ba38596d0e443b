#pragma once

#include <memory>

#include "common/base/clock.h"
#include "common/collective/collective.h"

namespace palimpsest::bench {

// Ranks whose gathers and sums of floats also take the time of a link of `rate` megabytes a second
// (0: no such link), over which each rank sends its share. Nothing goes on in the background.
class SlowLink final : public Collective {
 public:
  SlowLink(std::unique_ptr<Collective> ranks, double rate, Clock& clock)
      : ranks_(std::move(ranks)), rate_(rate), clock_(clock) {}

  int rank() const override { return ranks_->rank(); }
  int size() const override { return ranks_->size(); }
  absl::Status AllGather(std::span<const float> mine, std::span<float> all) override {
    Send(all.size() - mine.size());
    return ranks_->AllGather(mine, all);
  }
  absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) override {
    Send(all.size() - mine.size());
    return ranks_->ReduceScatter(all, mine);
  }
  absl::Status AllReduce(std::span<float> values) override { return ranks_->AllReduce(values); }
  absl::Status Broadcast(int root, std::string& bytes, absl::Duration patience) override {
    return ranks_->Broadcast(root, bytes, patience);
  }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine) override {
    return ranks_->AllGatherBytes(mine);
  }
  absl::Status Barrier() override { return ranks_->Barrier(); }
  void Fail(const absl::Status& why) override { ranks_->Fail(why); }
  absl::Status health() const override { return ranks_->health(); }

 private:
  void Send(size_t floats) {
    if (rate_ == 0) return;
    clock_.SleepFor(absl::Seconds(static_cast<double>(4 * floats) / (rate_ * 1e6)));
  }

  const std::unique_ptr<Collective> ranks_;
  const double rate_;  // MB/s
  Clock& clock_;
};

}  // namespace palimpsest::bench
