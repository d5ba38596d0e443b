#pragma once

#include <compare>
#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"
#include "tools/eval/policy.h"

namespace palimpsest::tools::eval {

// One answer that is asked for. The prompt is the first four, of the environment.
struct AnswerKey {
  std::string task;
  std::string split;
  uint64_t seed = 0;
  int64_t index = 0;
  std::string policy;
  int32_t sample = 0;
  auto operator<=>(const AnswerKey&) const = default;
};
std::string Text(const AnswerKey& key);  // for messages

// Prompts [0, prompts) of a task.
struct TaskShare {
  std::string name;
  int64_t prompts = 0;
  bool operator==(const TaskShare&) const = default;
};

// "a,b=2": n prompts in all, shared by weight (1 where none is given), what is left over to the
// largest remainders, the first of equal ones. Refused when a task would get none.
absl::StatusOr<std::vector<TaskShare>> ParseTasks(const std::string& text, int64_t n);

struct Plan {
  std::vector<TaskShare> tasks;
  std::string split = "heldout";  // or train, sft
  uint64_t seed = 0;              // of the prompts and of the draws
  int32_t samples = 1;            // of each prompt under each policy
  std::vector<Policy> policies;   // differences are to the first
  int32_t max_tokens = 0;         // of a response; 0: as many as the environment says it needs
  double temperature = 1;
  double right = 1;  // an answer is right from this reward on
};

// Tasks in turn, prompt by prompt, the policies side by side: what cannot be asked shows early, and
// an interrupted evaluation is paired.
std::vector<AnswerKey> KeysOf(const Plan& plan);

// What an answer depends on, by name. Number of prompts, samples and policies may grow later.
using Settings = std::map<std::string, std::string>;
Settings SettingsOf(const Plan& plan);

// Of an environment (keys that begin with "env."), which may not grow either.
inline constexpr std::string_view kOfEnv = "env.";

// `stored` with what is new in `now`; FAILED_PRECONDITION naming what both have and differs, or
// what one of two environments lacks.
absl::StatusOr<Settings> MergeSettings(const Settings& stored, const Settings& now);

}  // namespace palimpsest::tools::eval
