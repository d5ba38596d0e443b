#include "tests/simulation/history.h"

#include "absl/strings/str_format.h"
#include "absl/time/time.h"
#include "common/base/random.h"

namespace palimpsest::simulation {

void History::Add(const std::string& what) {
  const double seconds = absl::ToDoubleSeconds(clock_.Now() - absl::FromUnixSeconds(1 << 30));
  const std::string line = absl::StrFormat("%9.3f %s", seconds, what);
  digest_ = MixSeed({digest_, Meaning(line)});
  ++events_;
  if (!broken_.empty()) return;
  latest_.push_back(line);
  if (latest_.size() > kKept) latest_.pop_front();
}

void History::Broken(const std::string& promise, const std::string& how) {
  Add(absl::StrFormat("BROKEN %s: %s", promise, how));
  broken_.emplace(promise, how);
}

}  // namespace palimpsest::simulation
