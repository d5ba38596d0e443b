#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <nlohmann/json_fwd.hpp>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/base/status.h"

// A process that is measured by turns, as tests/bench/peers/turns.py asks: one job per line of
// stdin, one line of answer.
namespace palimpsest::bench {

using Json = nlohmann::json;

// Ids that no other turn or stream begins with.
std::vector<int32_t> PromptOf(int turn, int stream, int tokens, int vocab);

// Answers jobs by the function that `what` names, {"error": ..} where one fails, until stdin ends.
void ServeJobs(const std::map<std::string, std::function<absl::StatusOr<Json>(const Json&)>>& jobs);

// When the tokens of streams that run side by side came. Any thread.
class TokenClock {
 public:
  // Each of `streams` is to have so many tokens.
  TokenClock(int streams, int tokens);
  void Note(int stream, int new_tokens);
  void Fail(const absl::Status& status);
  // Returns when all have all their tokens, or one has failed.
  absl::Status Wait();

  double SecondsToFirst(absl::Time begin) const;  // until every stream had one
  double SecondsPerStep() const;                  // after that; 0 when there is one token each
  int early() const;  // tokens beyond the first that came while another stream had none

 private:
  const int tokens_;
  mutable absl::Mutex mu_;
  std::vector<int> missing_ ABSL_GUARDED_BY(mu_);  // [streams]
  int open_ ABSL_GUARDED_BY(mu_);                  // streams
  int without_ ABSL_GUARDED_BY(mu_);               // streams that have no token
  int early_ ABSL_GUARDED_BY(mu_) = 0;
  absl::Time all_have_one_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Time last_ ABSL_GUARDED_BY(mu_) = absl::InfinitePast();
  absl::Status status_ ABSL_GUARDED_BY(mu_);
};

}  // namespace palimpsest::bench
