#include "absl/strings/str_format.h"
#include "common/context/policy.h"

namespace palimpsest::context {
namespace {

template <class... Args>
absl::Status Refused(const absl::FormatSpec<Args...>& format, const Args&... args) {
  return absl::InvalidArgumentError(absl::StrFormat(format, args...));
}

// Markovian keeps nothing whatever the ratio says.
absl::Status CheckRatio(const char* trigger, double keep_ratio, Method method) {
  if (method == Method::kMarkovian || (keep_ratio >= 0 && keep_ratio < 1)) return absl::OkStatus();
  return Refused("%s.keep_ratio=%g is not in [0, 1)", trigger, keep_ratio);
}

absl::Status CheckWindow(const char* trigger, int32_t window, double keep_ratio, Method method) {
  if (window < 1) return Refused("%s.window=%d is not >= 1", trigger, window);
  RETURN_IF_ERROR(CheckRatio(trigger, keep_ratio, method));
  const int32_t kept = KeptCount(method, keep_ratio, window);
  if (kept >= window) {
    return Refused("%s.keep_ratio=%g keeps %d of window=%d slots: an event would drop nothing",
                   trigger, keep_ratio, kept, window);
  }
  return absl::OkStatus();
}

// `first` tokens are protected.
struct TriggerCheck {
  Method method;
  int32_t first;

  absl::Status operator()(const NoTrigger&) const { return absl::OkStatus(); }

  absl::Status operator()(const KvBudget& t) const {
    if (t.budget < 1) return Refused("kv_budget.budget=%d is not > 0", t.budget);
    RETURN_IF_ERROR(CheckWindow("kv_budget", t.window, t.keep_ratio, method));
    if (!(t.early >= 0 && t.early < 1)) {
      return Refused("kv_budget.early=%g is not in [0, 1)", t.early);
    }
    if (int64_t{first} + t.window > t.budget) {
      return Refused("kv_budget.budget=%d is less than %d protected tokens + window=%d", t.budget,
                     first, t.window);
    }
    return absl::OkStatus();
  }

  absl::Status operator()(const Segments& t) const {
    if (t.every < 1) return Refused("segments.every=%d is not > 0", t.every);
    return CheckWindow("segments", t.window, t.keep_ratio, method);
  }

  absl::Status operator()(const Turns& t) const {
    if (t.n_protect_turns < 0) {
      return Refused("turns.n_protect_turns=%d is not >= 0", t.n_protect_turns);
    }
    if (t.max_turns.has_value() && *t.max_turns <= t.n_protect_turns) {
      return Refused("turns.max_turns=%d is not greater than n_protect_turns=%d", *t.max_turns,
                     t.n_protect_turns);
    }
    return CheckRatio("turns", t.keep_ratio, method);
  }

  absl::Status operator()(const Manual& t) const {
    return CheckRatio("manual", t.keep_ratio, method);
  }
};

}  // namespace

absl::Status Validate(const ContextPolicy& policy, int32_t prompt_tokens) {
  if (prompt_tokens < 0) return Refused("prompt_tokens=%d is not >= 0", prompt_tokens);
  RETURN_IF_ERROR(Validate(policy.parameters, policy.method));
  if (policy.method != Method::kMarkovian && policy.reference_tokens < 1) {
    return Refused("reference_tokens=%d is not >= 1", policy.reference_tokens);
  }
  if (policy.protect.has_value() && *policy.protect < 0) {
    return Refused("protect=%d is not >= 0", *policy.protect);
  }
  return std::visit(TriggerCheck{policy.method, policy.protect.value_or(prompt_tokens)},
                    policy.trigger);
}

}  // namespace palimpsest::context
