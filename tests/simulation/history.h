#pragma once

#include <cstdint>
#include <deque>
#include <map>
#include <string>

#include "common/base/clock.h"

namespace palimpsest::simulation {

// What happened, and which promises were broken. One thread at a time.
class History {
 public:
  explicit History(Clock& clock) : clock_(clock) {}

  void Add(const std::string& what);
  // The first that is said of each promise is kept.
  void Broken(const std::string& promise, const std::string& how);

  uint64_t digest() const { return digest_; }  // of all that was added
  int64_t events() const { return events_; }
  const std::deque<std::string>& latest() const { return latest_; }  // up to the first break
  const std::map<std::string, std::string>& broken() const { return broken_; }

 private:
  static constexpr size_t kKept = 40;
  Clock& clock_;
  uint64_t digest_ = 0;
  int64_t events_ = 0;
  std::deque<std::string> latest_;
  std::map<std::string, std::string> broken_;
};

}  // namespace palimpsest::simulation
