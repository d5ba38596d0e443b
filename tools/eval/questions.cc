#include "tools/eval/questions.h"

namespace palimpsest::tools::eval {

absl::StatusOr<std::shared_ptr<const Asked>> Questions::Get(const AnswerKey& key) {
  Slot& slot = Find(key);
  const absl::MutexLock lock(&slot.mu);
  if (slot.asked != nullptr) return slot.asked;
  auto asked = std::make_shared<Asked>();
  ASSIGN_OR_RETURN(asked->question, peers_.Reset(key));
  ASSIGN_OR_RETURN(asked->ids, peers_.Tokenize(asked->question.saying));
  if (asked->ids.empty()) {
    return absl::InvalidArgumentError("the environment's prompt has no tokens");
  }
  slot.asked = std::move(asked);
  return slot.asked;
}

Questions::Slot& Questions::Find(const AnswerKey& key) {
  const absl::MutexLock lock(&mu_);
  return slots_[{key.task, key.index}];
}

}  // namespace palimpsest::tools::eval
