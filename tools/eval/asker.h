#pragma once

#include "tools/eval/answers.h"

namespace palimpsest::tools::eval {

// Gets one answer: prompt, response or responses, reward. Any thread. `attempt` counts from 1: a
// try is a new generation with the same draws. A status that IsRefusal would come back whenever
// this is asked; every other one is a failure of infrastructure, or of an environment that could
// not judge.
class Asker {
 public:
  virtual ~Asker() = default;
  virtual absl::StatusOr<Answer> Ask(const AnswerKey& key, const Policy& policy, int attempt) = 0;
};

inline bool IsRefusal(const absl::Status& status) {
  return absl::IsInvalidArgument(status) || absl::IsNotFound(status) ||
         absl::IsFailedPrecondition(status) || absl::IsUnimplemented(status) ||
         absl::IsOutOfRange(status) || absl::IsPermissionDenied(status) ||
         absl::IsUnauthenticated(status);
}

}  // namespace palimpsest::tools::eval
