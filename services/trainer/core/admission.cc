#include "services/trainer/core/admission.h"

#include <algorithm>
#include <cmath>
#include <span>

#include "absl/strings/match.h"
#include "absl/strings/str_format.h"
#include "common/context/log.h"
#include "services/trainer/core/schedule.h"

namespace palimpsest::trainer {
namespace {

using Reason = std::optional<Rejected>;

template <class... Args>
Reason Because(RejectReason reason, const absl::FormatSpec<Args...>& format, const Args&... args) {
  return Rejected{.reason = reason, .message = absl::StrFormat(format, args...)};
}

Reason CheckTokens(std::span<const int32_t> tokens, int32_t prompt_tokens, const Limits& limits) {
  const auto size = static_cast<int64_t>(tokens.size());
  if (size < 2) return Because(RejectReason::kMalformed, "tokens: %d of them, at least 2", size);
  if (prompt_tokens < 1 || prompt_tokens > size) {
    return Because(RejectReason::kMalformed, "prompt_tokens=%d is not in [1, %d]", prompt_tokens,
                   size);
  }
  if (size > limits.max_tokens_per_sequence) {
    return Because(RejectReason::kTooLong, "tokens: %d of them, at most %d", size,
                   limits.max_tokens_per_sequence);
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < 0 || tokens[i] >= limits.vocab) {
      return Because(RejectReason::kMalformed, "tokens[%d]=%d is not in [0, vocab=%d)", i,
                     tokens[i], limits.vocab);
    }
  }
  return std::nullopt;
}

Reason CheckNumbers(double advantage, double weight) {
  if (!std::isfinite(advantage)) {
    return Because(RejectReason::kMalformed, "advantage=%g is not finite", advantage);
  }
  if (!(weight >= 0 && std::isfinite(weight))) {
    return Because(RejectReason::kMalformed, "weight=%g is not finite and >= 0", weight);
  }
  return std::nullopt;
}

Reason CheckArrays(const rl::Rollout& r) {
  if (r.origins.size() != r.tokens.size() || r.logprobs.size() != r.tokens.size()) {
    return Because(RejectReason::kMalformed, "origins: %d, logprobs: %d, tokens: %d of them",
                   r.origins.size(), r.logprobs.size(), r.tokens.size());
  }
  for (size_t i = 0; i < r.tokens.size(); ++i) {
    const bool prompt = i < static_cast<size_t>(r.prompt_tokens);
    if (prompt != (r.origins[i] == rl::Origin::kPrompt)) {
      return Because(RejectReason::kMalformed, "origins[%d]=%d with prompt_tokens=%d", i,
                     static_cast<int>(r.origins[i]), r.prompt_tokens);
    }
    const bool sampled = r.origins[i] == rl::Origin::kSampled;
    if (sampled ? !(std::isfinite(r.logprobs[i]) && r.logprobs[i] <= 1e-3) : r.logprobs[i] != 0) {
      return Because(RejectReason::kMalformed, "logprobs[%d]=%g", i, r.logprobs[i]);
    }
  }
  if (!(r.temperature > 0 && std::isfinite(r.temperature))) {
    return Because(RejectReason::kMalformed, "temperature=%g is not > 0", r.temperature);
  }
  return std::nullopt;
}

Reason CheckSampling(const rl::Rollout& r, const Limits& limits) {
  if (r.truncated_sampling && !limits.take_truncated_sampling) {
    return Because(RejectReason::kTruncatedSampling,
                   "truncated_sampling=true: not drawn from the recorded distribution");
  }
  if (r.greedy && !limits.take_greedy) {
    return Because(RejectReason::kTruncatedSampling,
                   "greedy=true: not drawn from the recorded distribution");
  }
  return std::nullopt;
}

Reason CheckVersions(const rl::Rollout& r, const Limits& limits) {
  int32_t end = r.prompt_tokens;
  for (size_t i = 0; i < r.spans.size(); ++i) {
    const rl::Span& span = r.spans[i];
    if (span.begin != end || span.end <= span.begin) {
      return Because(RejectReason::kMalformed, "spans[%d]=[%d, %d) does not begin at %d", i,
                     span.begin, span.end, end);
    }
    end = span.end;
    if (!limits.newest || span.version > *limits.newest) {
      return Because(RejectReason::kVersion, "spans[%d].policy_version=%d; the newest is %d", i,
                     span.version.value(), limits.newest.value_or(PolicyVersion(-1)).value());
    }
  }
  if (end != static_cast<int32_t>(r.tokens.size())) {
    return Because(RejectReason::kMalformed, "spans end at %d of %d tokens", end, r.tokens.size());
  }
  return std::nullopt;
}

Reason CheckEvents(const rl::Rollout& r, const Limits& limits) {
  for (size_t i = 0; i < r.events.size(); ++i) {
    if (!r.events[i].digest) {
      return Because(RejectReason::kDigest, "events[%d].digest is absent", i);
    }
  }
  const absl::Status log = context::CheckLog(limits.shape, r.tokens, r.events);
  if (log.ok()) return std::nullopt;
  const std::string message(log.message());
  return Because(
      absl::StrContains(message, "].digest=") ? RejectReason::kDigest : RejectReason::kLog, "%s",
      message);
}

Reason CheckOutcome(const RlItem& item) {
  if (item.outcome == rl::Outcome::kOk || item.outcome == rl::Outcome::kTruncated) {
    return std::nullopt;
  }
  return Because(RejectReason::kMalformed, "outcome=%d carries no reward",
                 static_cast<int>(item.outcome));
}

// The first that holds, under the item's id.
Reason First(const std::string& id, std::initializer_list<Reason> reasons) {
  for (const Reason& reason : reasons) {
    if (!reason) continue;
    Rejected rejected = *reason;
    rejected.id = id;
    return rejected;
  }
  return std::nullopt;
}

}  // namespace

Reason Refuse(const RlItem& item, const Limits& limits) {
  const rl::Rollout& r = item.rollout;
  if (Reason reason = First(r.id, {CheckTokens(r.tokens, r.prompt_tokens, limits)})) return reason;
  if (Reason reason = First(r.id, {CheckArrays(r), CheckNumbers(item.advantage, item.weight),
                                   CheckOutcome(item), CheckSampling(r, limits)})) {
    return reason;
  }
  return First(r.id, {CheckVersions(r, limits), CheckEvents(r, limits)});
}

Reason Refuse(const SftItem& item, const Limits& limits) {
  if (Reason reason = First(item.id, {CheckTokens(item.ids, item.prompt_tokens, limits),
                                      CheckNumbers(0, item.weight)})) {
    return reason;
  }
  if (item.loss_mask.size() != item.ids.size()) {
    return Rejected{
        item.id, RejectReason::kMalformed,
        absl::StrFormat("loss_mask: %d for %d ids", item.loss_mask.size(), item.ids.size())};
  }
  int64_t least = item.prompt_tokens;
  for (size_t i = 0; i < item.turn_begins.size(); ++i) {
    const int32_t begin = item.turn_begins[i];
    if (begin < least || begin >= std::ssize(item.ids)) {
      return Rejected{item.id, RejectReason::kMalformed,
                      absl::StrFormat("turn_begins[%d]=%d is not in [%d, %d)", i, begin, least,
                                      item.ids.size())};
    }
    least = begin + 1;
  }
  return std::nullopt;
}

absl::Status Validate(const Batch& batch) {
  if (batch.id.empty() || batch.id.size() > 128) {
    return absl::InvalidArgumentError(
        absl::StrFormat("batch_id has %d bytes, not 1 to 128", batch.id.size()));
  }
  const bool none = batch.rl.empty() && batch.sft.empty() && batch.unreadable.empty();
  if (none || (!batch.rl.empty() && !batch.sft.empty())) {
    return absl::InvalidArgumentError(absl::StrFormat("items: %d rl and %d sft, not one kind",
                                                      batch.rl.size(), batch.sft.size()));
  }
  if (batch.learning_rate &&
      !(*batch.learning_rate > 0 && *batch.learning_rate <= kMaxLearningRate)) {
    return absl::InvalidArgumentError(absl::StrFormat("learning_rate=%g is not in (0, %g]",
                                                      *batch.learning_rate, kMaxLearningRate));
  }
  return absl::OkStatus();
}

}  // namespace palimpsest::trainer
