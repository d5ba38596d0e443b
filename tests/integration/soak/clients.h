#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <set>
#include <string>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "common/base/random.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

// What has happened so far, by name; and what should not have. Any thread.
class Book {
 public:
  void Count(const std::string& what, int64_t n = 1);
  void Fault(const std::string& what);
  void Began(int samples);
  void Ended();
  // New weights come: what began before is not offered any more.
  void NewEra();
  int64_t era() const;
  // Every fiftieth rollout of this era that came to its end, for a second look.
  void Offer(const rl::Rollout& rollout, int64_t era);
  std::vector<rl::Rollout> TakeOffered();

  void WaitUntilFewerThan(int samples);  // in flight; a minute without an end is a fault
  int64_t Of(const std::string& what) const;
  std::map<std::string, int64_t> counts() const;
  std::vector<std::string> faults() const;

 private:
  mutable absl::Mutex mu_;
  int in_flight_ ABSL_GUARDED_BY(mu_) = 0;
  int64_t era_ ABSL_GUARDED_BY(mu_) = 0, seen_ ABSL_GUARDED_BY(mu_) = 0;
  std::map<std::string, int64_t> counts_ ABSL_GUARDED_BY(mu_);
  std::vector<std::string> faults_ ABSL_GUARDED_BY(mu_);
  std::vector<rl::Rollout> offered_ ABSL_GUARDED_BY(mu_);
};

// All clients of the engine, at random. Owner: one thread.
class Clients {
 public:
  Clients(Engine& engine, Book& book, int32_t vocab, uint64_t seed)
      : engine_(engine), book_(book), vocab_(vocab), random_(seed) {}

  // One more request, of whatever kind, and perhaps a cancel.
  void Go();
  // Before new weights: sessions that are open may keep what the old ones made.
  void NewEra();
  void DeleteAllSessions();

 private:
  std::vector<int32_t> Words(int64_t n);
  context::ContextPolicy Context();
  void Submit(GenerationRequest request);
  void Generate();
  void Converse();
  void OpenSession();
  void StepOf(const SessionInfo& session);

  Engine& engine_;
  Book& book_;
  const int32_t vocab_;
  RandomStream random_;
  int64_t asked_ = 0;
  std::set<std::string> of_this_era_;  // sessions
};

}  // namespace palimpsest::inference
