#include "tools/eval/plan.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <numeric>
#include <set>

#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"

namespace palimpsest::tools::eval {
namespace {

struct Weighted {
  std::string name;
  double weight = 1;
};

absl::StatusOr<std::vector<Weighted>> ParseWeights(const std::string& text) {
  std::vector<Weighted> tasks;
  std::set<std::string> names;
  const std::vector<std::string> items = absl::StrSplit(text, ',');
  for (const std::string& item : items) {
    const size_t equals = item.find('=');
    Weighted task{.name = item.substr(0, equals)};
    if (equals != std::string::npos) {
      const char* const end = item.data() + item.size();
      const auto [at, error] = std::from_chars(item.data() + equals + 1, end, task.weight);
      if (error != std::errc() || at != end || !std::isfinite(task.weight) || task.weight <= 0) {
        return absl::InvalidArgumentError(absl::StrFormat("--tasks: %s has no weight > 0", item));
      }
    }
    if (task.name.empty() || !names.insert(task.name).second) {
      return absl::InvalidArgumentError(
          absl::StrFormat("--tasks %s: \"%s\" is empty or stands twice", text, task.name));
    }
    tasks.push_back(std::move(task));
  }
  return tasks;
}

// Every key of an environment in `one` is in `other`, too.
absl::Status CheckEnv(const Settings& one, const Settings& other,
                      const absl::FormatSpec<std::string, std::string>& message) {
  for (const auto& [name, value] : one) {
    if (!name.starts_with(kOfEnv) || other.contains(name)) continue;
    return absl::FailedPreconditionError(absl::StrFormat(message, name, value) +
                                         ": answers of both would be mixed");
  }
  return absl::OkStatus();
}

}  // namespace

std::string Text(const AnswerKey& key) {
  return absl::StrFormat("%s/%s/%d/%d %s #%d", key.task, key.split, key.seed, key.index, key.policy,
                         key.sample);
}

absl::StatusOr<std::vector<TaskShare>> ParseTasks(const std::string& text, int64_t n) {
  ASSIGN_OR_RETURN(const std::vector<Weighted> tasks, ParseWeights(text));
  double total = 0;
  for (const Weighted& task : tasks) total += task.weight;
  std::vector<TaskShare> shares;
  std::vector<double> remainders;
  int64_t left = n;
  for (const Weighted& task : tasks) {
    const double exact = static_cast<double>(n) * (task.weight / total);
    shares.push_back({task.name, static_cast<int64_t>(exact)});
    remainders.push_back(exact - std::floor(exact));
    left -= shares.back().prompts;
  }
  std::vector<size_t> order(tasks.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(),
                   [&](size_t a, size_t b) { return remainders[a] > remainders[b]; });
  for (size_t i = 0; left > 0; ++i, --left) ++shares[order[i % order.size()]].prompts;
  for (const TaskShare& share : shares) {
    if (share.prompts > 0) continue;
    return absl::InvalidArgumentError(
        absl::StrFormat("--n %d leaves no prompt for the task \"%s\"", n, share.name));
  }
  return shares;
}

std::vector<AnswerKey> KeysOf(const Plan& plan) {
  std::vector<AnswerKey> keys;
  int64_t longest = 0;
  for (const TaskShare& task : plan.tasks) longest = std::max(longest, task.prompts);
  for (int64_t index = 0; index < longest; ++index) {
    for (const TaskShare& task : plan.tasks) {
      if (index >= task.prompts) continue;
      for (int32_t sample = 0; sample < plan.samples; ++sample) {
        for (const Policy& policy : plan.policies) {
          keys.push_back({task.name, plan.split, plan.seed, index, policy.name, sample});
        }
      }
    }
  }
  return keys;
}

Settings SettingsOf(const Plan& plan) {
  Settings settings = {{"split", plan.split},
                       {"seed", absl::StrFormat("%d", plan.seed)},
                       {"max_tokens", absl::StrFormat("%d", plan.max_tokens)},
                       {"temperature", absl::StrFormat("%.17g", plan.temperature)}};
  for (const Policy& policy : plan.policies) settings["policy." + policy.name] = policy.text;
  return settings;
}

absl::StatusOr<Settings> MergeSettings(const Settings& stored, const Settings& now) {
  Settings merged = now;
  const auto has_env = [](const Settings& settings) {
    const auto first = settings.lower_bound(std::string(kOfEnv));
    return first != settings.end() && first->first.starts_with(kOfEnv);
  };
  if (has_env(stored)) {
    RETURN_IF_ERROR(CheckEnv(stored, now, "\"%s\" was given as %s and is not given now"));
    RETURN_IF_ERROR(CheckEnv(now, stored, "\"%s\" is given as %s and was not given before"));
  }
  for (const auto& [name, value] : stored) {
    const auto [place, fresh] = merged.emplace(name, value);
    if (fresh || place->second == value) continue;
    return absl::FailedPreconditionError(
        absl::StrFormat("%s was \"%s\" and is \"%s\" now: answers of both would be mixed", name,
                        value, place->second));
  }
  return merged;
}

}  // namespace palimpsest::tools::eval
