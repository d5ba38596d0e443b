#include "tools/context_settings.h"

#include <algorithm>
#include <charconv>
#include <functional>
#include <map>
#include <vector>

#include "absl/strings/str_format.h"

namespace palimpsest::tools {
namespace {

constexpr std::string_view kPrefix = "context.";

absl::Status Refused(std::string_view key, std::string_view value, std::string_view wanted) {
  return absl::InvalidArgumentError(
      absl::StrFormat("--set context.%s=%s is not %s", key, value, wanted));
}

// Reads one value; the whole text must be it.
using Setter = std::function<absl::Status(std::string_view key, std::string_view value)>;

template <class T>
Setter Number(T& target, std::string_view wanted) {
  return [&target, wanted](std::string_view key, std::string_view value) {
    const char* const end = value.data() + value.size();
    const auto [at, error] = std::from_chars(value.data(), end, target);
    return error == std::errc() && at == end && !value.empty() ? absl::OkStatus()
                                                               : Refused(key, value, wanted);
  };
}
Setter Whole(int32_t& target) { return Number(target, "a whole number"); }
Setter Real(double& target) { return Number(target, "a number"); }

Setter Given(std::optional<int32_t>& target) {
  return [&target](std::string_view key, std::string_view value) {
    return Whole(target.emplace())(key, value);
  };
}

Setter Flag(bool& target) {
  return [&target](std::string_view key, std::string_view value) {
    if (value != "true" && value != "false") return Refused(key, value, "true or false");
    target = value == "true";
    return absl::OkStatus();
  };
}

// A word of the vocabulary of common/context/types.h.
template <class T>
Setter Word(T& target, absl::StatusOr<T> (*from_name)(std::string_view)) {
  return [&target, from_name](std::string_view, std::string_view value) -> absl::Status {
    ASSIGN_OR_RETURN(target, from_name(value));
    return absl::OkStatus();
  };
}

// "prompt", or a count of first tokens.
Setter Protect(std::optional<int32_t>& target) {
  return [&target](std::string_view key, std::string_view value) -> absl::Status {
    if (value == "prompt") {
      target.reset();
      return absl::OkStatus();
    }
    int32_t count = 0;
    const absl::Status status = Whole(count)(key, value);
    if (!status.ok() || count < 0) return Refused(key, value, "\"prompt\" or a count of tokens");
    target = count;
    return absl::OkStatus();
  };
}

using Setters = std::map<std::string, Setter, std::less<>>;

Setters CommonSetters(context::ContextPolicy& policy, bool& chooser_set) {
  context::Parameters& p = policy.parameters;
  const Setter chooser = Word(p.chooser, context::ChooserFromName);
  return {
      {"method", Word(policy.method, context::MethodFromName)},
      {"reference_tokens", Whole(policy.reference_tokens)},
      {"after_window", Flag(policy.after_window)},
      {"protect", Protect(policy.protect)},
      {"stack", Flag(policy.stack)},
      {"mu", Real(p.mu)},
      {"lambda", Real(p.lambda)},
      {"log_lower", Real(p.log_lower)},
      {"log_upper", Real(p.log_upper)},
      {"chooser",
       [&chooser_set, chooser](std::string_view key, std::string_view value) {
         chooser_set = true;
         return chooser(key, value);
       }},
      {"reference_kind", Word(p.reference_kind, context::ReferenceKindFromName)},
      {"seed", Number(p.seed, "a whole number >= 0")},
      {"holdout_every", Whole(p.holdout_every)},
  };
}

absl::Status Apply(const Setters& setters, std::string_view name, const std::string& assignment) {
  const std::string_view text = assignment;
  const size_t equals = text.find('=');
  if (equals == std::string_view::npos || !text.starts_with(kPrefix)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("--set %s is not context.KEY=VALUE", assignment));
  }
  const std::string_view key = text.substr(kPrefix.size(), equals - kPrefix.size());
  const auto setter = setters.find(key);
  if (setter == setters.end()) {
    std::string known;
    for (const auto& [word, unused] : setters) known += (known.empty() ? "" : ", ") + word;
    return absl::InvalidArgumentError(absl::StrFormat(
        "--set %s: --context %s has no \"%s\"; there are: %s", assignment, name, key, known));
  }
  return setter->second(key, text.substr(equals + 1));
}

// `required`: the numbers of the trigger that have no default.
absl::Status CheckGiven(std::string_view name, std::span<const std::string> sets,
                        const std::vector<const char*>& required) {
  for (const char* key : required) {
    const std::string begin = absl::StrFormat("%s%s=", kPrefix, key);
    const auto sets_it = [&](const std::string& set) { return set.starts_with(begin); };
    if (std::any_of(sets.begin(), sets.end(), sets_it)) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("--context %s: context.%s is not given", name, key));
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<context::ContextPolicy> ParseContextPolicy(std::string_view name,
                                                          std::span<const std::string> sets) {
  context::ContextPolicy policy;
  if (name == "none") {
    if (sets.empty()) return policy;
    return absl::InvalidArgumentError(
        absl::StrFormat("--set %s without --context: nothing is compacted", sets.front()));
  }
  bool chooser_set = false;
  Setters setters = CommonSetters(policy, chooser_set);
  std::vector<const char*> required;
  if (name == "kv_budget") {
    context::KvBudget& trigger = policy.trigger.emplace<context::KvBudget>();
    setters["budget"] = Whole(trigger.budget);
    setters["window"] = Whole(trigger.window);
    setters["keep_ratio"] = Real(trigger.keep_ratio);
    setters["early"] = Real(trigger.early);
    required = {"budget", "window"};
  } else if (name == "segments") {
    context::Segments& trigger = policy.trigger.emplace<context::Segments>();
    setters["every"] = Whole(trigger.every);
    setters["window"] = Whole(trigger.window);
    setters["keep_ratio"] = Real(trigger.keep_ratio);
    required = {"every", "window"};
  } else if (name == "turns") {
    context::Turns& trigger = policy.trigger.emplace<context::Turns>();
    setters["n_protect_turns"] = Whole(trigger.n_protect_turns);
    setters["max_turns"] = Given(trigger.max_turns);
    setters["keep_ratio"] = Real(trigger.keep_ratio);
    required = {"n_protect_turns"};
  } else {
    return absl::InvalidArgumentError(
        absl::StrFormat("--context %s is none of none, kv_budget, segments, turns", name));
  }
  for (const std::string& assignment : sets) {
    RETURN_IF_ERROR(Apply(setters, name, assignment));
  }
  RETURN_IF_ERROR(CheckGiven(name, sets, required));
  if (!chooser_set) policy.parameters.chooser = context::DefaultChooser(policy.method);
  return policy;
}

}  // namespace palimpsest::tools
