#include "tools/eval/policy.h"

#include <algorithm>
#include <cctype>
#include <charconv>
#include <iterator>
#include <map>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "tools/context_settings.h"

namespace palimpsest::tools::eval {
namespace {

using Settings = std::map<std::string, std::string>;

absl::Status Refuse(const std::string& where, const std::string& why) {
  return absl::InvalidArgumentError(absl::StrFormat("%s: %s", where, why));
}

absl::StatusOr<Settings> ReadSettings(const std::string& where, const std::string& text) {
  Settings settings;
  if (text.empty()) return settings;
  const std::vector<std::string> items = absl::StrSplit(text, ',');
  for (const std::string& item : items) {
    const size_t equals = item.find('=');
    if (equals == std::string::npos || equals == 0) {
      return Refuse(where, absl::StrFormat("\"%s\" is not key=value", item));
    }
    if (!settings.emplace(item.substr(0, equals), item.substr(equals + 1)).second) {
      return Refuse(where, absl::StrFormat("\"%s\" stands twice", item.substr(0, equals)));
    }
  }
  return settings;
}

// Takes the setting out; `otherwise` when it is not there.
std::string Take(Settings& settings, const std::string& key, const std::string& otherwise) {
  const auto node = settings.extract(key);
  return node.empty() ? otherwise : node.mapped();
}

absl::StatusOr<int32_t> Count(const std::string& where, const std::string& key,
                              const std::string& text) {
  int32_t value = 0;
  const char* const end = text.data() + text.size();
  const auto [at, error] = std::from_chars(text.data(), end, value);
  if (error == std::errc() && at == end && value > 0) return value;
  return Refuse(where, absl::StrFormat("%s=%s is not a whole number > 0", key, text));
}

absl::StatusOr<std::optional<rl::BudgetMessages>> TakeMessages(const std::string& where,
                                                               Settings& settings) {
  rl::BudgetMessages messages;
  messages.text = Take(settings, "inject", "");
  const std::string every = Take(settings, "inject_every", "");
  const std::string at_events = Take(settings, "inject_at_events", "false");
  if (at_events != "true" && at_events != "false") {
    return Refuse(where, absl::StrFormat("inject_at_events=%s is not true or false", at_events));
  }
  messages.at_events = at_events == "true";
  if (!every.empty()) {
    ASSIGN_OR_RETURN(messages.every, Count(where, "inject_every", every));
  }
  const bool when = messages.every > 0 || messages.at_events;
  if (messages.text.empty() && !when) return std::nullopt;
  if (messages.text.empty() || !when) {
    return Refuse(where, "inject needs a text and inject_every or inject_at_events, and they it");
  }
  if (const absl::Status sound = rl::Validate(messages); !sound.ok()) {
    return Refuse(where, std::string(sound.message()));
  }
  return messages;
}

absl::StatusOr<Aggregation> TakeAggregation(const std::string& where, Settings& settings) {
  Aggregation aggregation;
  int given = 0;
  for (const auto& [key, target] :
       {std::pair("population", &aggregation.population),
        std::pair("aggregate", &aggregation.aggregate), std::pair("rounds", &aggregation.rounds)}) {
    const std::string text = Take(settings, key, "");
    if (text.empty()) continue;
    ASSIGN_OR_RETURN(*target, Count(where, key, text));
    ++given;
  }
  if (given != 0 && given != 3) {
    return Refuse(where, "population, aggregate and rounds go together");
  }
  if (aggregation.aggregate <= aggregation.population) return aggregation;
  return Refuse(where, absl::StrFormat("aggregate=%d is more than population=%d",
                                       aggregation.aggregate, aggregation.population));
}

absl::Status CheckName(const std::string& where, const std::string& name) {
  const bool sound = !name.empty() && std::all_of(name.begin(), name.end(), [](unsigned char c) {
    return std::isalnum(c) != 0 || c == '_' || c == '-' || c == '.';
  });
  return sound ? absl::OkStatus() : Refuse(where, "a name is letters, digits, '_', '-' and '.'");
}

absl::Status SetContext(const std::string& where, const std::string& kind, const Settings& settings,
                        Policy& policy) {
  std::vector<std::string> sets;
  for (const auto& [key, value] : settings) {
    sets.push_back(absl::StrFormat("context.%s=%s", key, value));
  }
  absl::StatusOr<context::ContextPolicy> context = ParseContextPolicy(kind, sets);
  if (!context.ok()) return Refuse(where, std::string(context.status().message()));
  policy.context = *std::move(context);
  // What no prompt could make right, however short.
  const absl::Status sound = context::Validate(policy.context, /*prompt_tokens=*/0);
  return sound.ok() ? sound : Refuse(where, std::string(sound.message()));
}

}  // namespace

absl::StatusOr<Policy> ParsePolicy(const std::string& text) {
  const std::string where = absl::StrFormat("--policy %s", text);
  const size_t colon = text.find(':');
  Policy policy{.name = text.substr(0, colon),
                .text = colon == std::string::npos ? "" : text.substr(colon + 1)};
  RETURN_IF_ERROR(CheckName(where, policy.name));
  ASSIGN_OR_RETURN(Settings settings, ReadSettings(where, policy.text));
  ASSIGN_OR_RETURN(policy.messages, TakeMessages(where, settings));
  ASSIGN_OR_RETURN(policy.aggregation, TakeAggregation(where, settings));
  const std::string kind = Take(settings, "kind", "none");
  if (policy.aggregation.rounds > 0 && (kind == "short" || kind == "turns")) {
    return Refuse(where, absl::StrFormat("attempts are not aggregated under kind=%s", kind));
  }
  if (kind != "short") {
    RETURN_IF_ERROR(SetContext(where, kind, settings, policy));
    return policy;
  }
  if (policy.messages) return Refuse(where, "injected tokens would go beyond the budget of short");
  ASSIGN_OR_RETURN(policy.length, Count(where, "budget", Take(settings, "budget", "")));
  if (settings.empty()) return policy;
  return Refuse(where, absl::StrFormat("kind=short has no \"%s\"", settings.begin()->first));
}

absl::StatusOr<std::vector<Policy>> ParseBaselines(const std::string& text) {
  const std::string where = absl::StrFormat("--baselines %s", text);
  ASSIGN_OR_RETURN(const Settings settings, ReadSettings(where, text));
  for (const char* key : {"budget", "window"}) {
    if (!settings.contains(key)) return Refuse(where, absl::StrFormat("%s is not given", key));
  }
  for (const char* key : {"kind", "method", "chooser", "inject", "inject_every", "inject_at_events",
                          "population", "aggregate", "rounds"}) {
    if (settings.contains(key)) {
      return Refuse(where, absl::StrFormat("%s is not for all of them", key));
    }
  }
  std::string all = "kind=kv_budget", bare = "kind=kv_budget";
  for (const auto& [key, value] : settings) {
    const std::string setting = absl::StrFormat(",%s=%s", key, value);
    all += setting;
    if (key == "budget" || key == "window" || key == "protect") bare += setting;
  }
  std::vector<Policy> policies;
  for (const std::string& spec :
       {std::string("full:kind=none"), "short:kind=short,budget=" + settings.at("budget"),
        "recent:" + all + ",method=evict,chooser=recent", "attention:" + all + ",method=evict",
        "markovian:" + bare + ",method=markovian",
        "attention_matching:" + all + ",method=attention_matching"}) {
    absl::StatusOr<Policy> policy = ParsePolicy(spec);
    if (!policy.ok()) return Refuse(where, std::string(policy.status().message()));
    policies.push_back(*std::move(policy));
  }
  return policies;
}

absl::StatusOr<std::vector<Policy>> ParsePolicies(const std::vector<std::string>& policies,
                                                  const std::string& baselines) {
  std::vector<Policy> all;
  for (const std::string& text : policies) {
    ASSIGN_OR_RETURN(Policy policy, ParsePolicy(text));
    all.push_back(std::move(policy));
  }
  if (!baselines.empty()) {
    ASSIGN_OR_RETURN(std::vector<Policy> more, ParseBaselines(baselines));
    std::move(more.begin(), more.end(), std::back_inserter(all));
  }
  if (all.empty()) return absl::InvalidArgumentError("give --policy, --baselines, or both");
  std::set<std::string> names;
  for (const Policy& policy : all) {
    if (names.insert(policy.name).second) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("--policy: the name \"%s\" stands for two", policy.name));
  }
  return all;
}

}  // namespace palimpsest::tools::eval
