#pragma once

#include <fstream>
#include <functional>
#include <string>

#include "common/collective/collective.h"

namespace palimpsest::trainer {

// The ranks, of which is noted what is begun in which order, and told when something is under way.
// With `waits` nothing ever is: what is begun is done at once.
class WatchedRanks final : public Collective {
 public:
  WatchedRanks(Collective& ranks, bool waits) : ranks_(ranks), waits_(waits) {}

  int rank() const override { return ranks_.rank(); }
  int size() const override { return ranks_.size(); }

  Pending BeginAllGather(std::span<const float> mine, std::span<float> all) override {
    begun_ += "all-gather " + std::to_string(mine.size()) + "\n";
    if (waits_) return Collective::BeginAllGather(mine, all);
    Pending pending = ranks_.BeginAllGather(mine, all);
    if (gathers) gathers();
    return pending;
  }
  Pending BeginReduceScatter(std::span<float> all, std::span<float> mine) override {
    begun_ += "reduce-scatter " + std::to_string(mine.size()) + "\n";
    if (waits_) return Collective::BeginReduceScatter(all, mine);
    Pending pending = ranks_.BeginReduceScatter(all, mine);
    if (reduces) reduces();
    return pending;
  }

  absl::Status AllGather(std::span<const float> mine, std::span<float> all) override {
    return ranks_.AllGather(mine, all);
  }
  absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) override {
    return ranks_.ReduceScatter(all, mine);
  }
  absl::Status AllReduce(std::span<float> values) override { return ranks_.AllReduce(values); }
  absl::Status Broadcast(int root, std::string& bytes, absl::Duration patience) override {
    return ranks_.Broadcast(root, bytes, patience);
  }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine) override {
    if (tells) tells();
    return ranks_.AllGatherBytes(mine);
  }
  absl::Status Barrier() override { return ranks_.Barrier(); }
  void Fail(const absl::Status& why) override { ranks_.Fail(why); }
  absl::Status health() const override { return ranks_.health(); }

  void WriteBegun(const std::string& path) const { std::ofstream(path) << begun_; }

  std::function<void()> gathers, reduces;  // called while the operation goes on
  std::function<void()> tells;             // called before this rank tells the others bytes

 private:
  Collective& ranks_;
  const bool waits_;
  std::string begun_;
};

}  // namespace palimpsest::trainer
