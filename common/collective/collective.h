#pragma once

#include <functional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"

namespace palimpsest {

// What has been begun together and goes on. Waits for it when it goes; the collective and the
// arrays outlive it. One thread, that of the collective.
class Pending {
 public:
  explicit Pending(std::function<absl::Status()> wait) : wait_(std::move(wait)) {}
  Pending(Pending&& other) noexcept : wait_(std::exchange(other.wait_, nullptr)) {}
  Pending& operator=(Pending&&) = delete;
  ~Pending() {
    if (wait_) wait_().IgnoreError();
  }
  // How it ended, once it has. Once.
  absl::Status Wait() { return std::exchange(wait_, nullptr)(); }

 private:
  std::function<absl::Status()> wait_;
};

// Processes that work on one thing, and what they do together. Every rank calls the same functions
// in the same order with arrays of the same lengths; a call returns when this rank's part of it is
// done. One thread per object.
//
// An error of any call is ABORTED, names the operation and the rank to blame, and is final: the
// ranks no longer stand at the same place, so every later call returns it too and the process
// should end. No call waits for another rank longer than the timeout that the ranks were joined
// with, save Broadcast's own.
class Collective {
 public:
  virtual ~Collective() = default;
  virtual int rank() const = 0;  // 0 .. size() - 1
  virtual int size() const = 0;

  // all[size * n] = mine[n] of each rank, by rank.
  virtual absl::Status AllGather(std::span<const float> mine, std::span<float> all) = 0;
  // mine[n] = this rank's part of the sum over ranks of all[size * n], whose content is lost. How
  // the sum is rounded depends on the number of ranks.
  virtual absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) = 0;
  // values = their sum over ranks, the same bits on each.
  virtual absl::Status AllReduce(std::span<float> values) = 0;
  // `bytes` of rank `root` on all others, which wait for them at most `patience`.
  virtual absl::Status Broadcast(int root, std::string& bytes, absl::Duration patience) = 0;
  // What each rank brings, by rank; lengths may differ.
  virtual absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine) = 0;
  // Returns when all ranks have come.
  virtual absl::Status Barrier() = 0;

  // AllGather and ReduceScatter that may go on while this rank computes; nobody touches the arrays
  // until they have been waited for. They count where they are begun: what is called afterwards
  // comes after them on every rank. Without a thread for them (background.h) they are done at once.
  virtual Pending BeginAllGather(std::span<const float> mine, std::span<float> all);
  virtual Pending BeginReduceScatter(std::span<float> all, std::span<float> mine);

  // This rank cannot go on: the error of the others will be `why`, under its name.
  virtual void Fail(const absl::Status& why) = 0;
  // OK, or the error that all calls return from now on.
  virtual absl::Status health() const = 0;
};

// The one rank of a group of one: nothing is waited for, nothing fails, Fail does nothing.
Collective& Alone();

// The first error that any rank brings, told to all of them as "rank 2: ..."; or that of the
// exchange. Alone: `mine`.
absl::Status Agree(Collective& ranks, const absl::Status& mine);

// What rank 0 brings, its error under its name; the others' is not looked at.
absl::StatusOr<std::string> OfFirst(Collective& ranks, absl::StatusOr<std::string> mine);

}  // namespace palimpsest
