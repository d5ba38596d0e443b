#pragma once

#include <functional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "tools/eval/asker.h"

namespace palimpsest::tools::eval {

struct AskLimits {
  int concurrency = 16;                            // answers asked for at once
  int tries = 8;                                   // of one answer
  absl::Duration first_wait = absl::Seconds(0.5);  // after a failed try; doubles
  absl::Duration longest_wait = absl::Seconds(15);
  int give_up_after = 16;  // answers in a row that all tries failed for: then nobody is there
};

struct Missing {
  AnswerKey key;
  std::string why;
};

struct Tally {
  int64_t wanted = 0;    // answers of the plan
  int64_t before = 0;    // of them in the book when this began
  int64_t answered = 0;  // since
  int64_t missing = 0;   // given up
  int64_t failures = 0;  // tries that failed
};

// Asks for every answer of the plan that the book lacks, in the order of KeysOf. What fails is
// tried again, later, and told as missing in the end: it is never an answer of reward 0. A refusal
// ends all of it with its status. `stopping` is asked between tries; what is not asked then is
// missing. `tell` is called by one thread at a time.
absl::StatusOr<std::vector<Missing>> AskAll(const Plan& plan, const AskLimits& limits, Asker& asker,
                                            AnswerBook& book, Clock& clock,
                                            const std::function<bool()>& stopping,
                                            const std::function<void(const Tally&)>& tell);

}  // namespace palimpsest::tools::eval
