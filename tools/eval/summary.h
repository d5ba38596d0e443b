#pragma once

#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "tools/eval/answers.h"
#include "tools/eval/ask_all.h"
#include "tools/eval/model_facts.h"
#include "tools/eval/statistics.h"

namespace palimpsest::tools::eval {

// Of a set of answers. Absent: there are none in it.
struct Scores {
  int64_t prompts = 0, answers = 0;
  std::optional<Estimate> pass_1;  // share of right answers, mean over prompts
  std::optional<Estimate> avg;     // avg@k: reward of a prompt's k answers, mean over prompts
  // pass@k for k = 2, 4, .. and the number of samples, over the prompts with at least k answers.
  std::vector<std::pair<int32_t, Estimate>> pass_k;
  // By name: a part of the reward of a prompt's answers, mean over the prompts that have it.
  std::map<std::string, Estimate> parts;
};

// Scores of the prompts of a task or tag; or of the answers with so many events, whose means are
// over answers, and which have neither pass@k nor parts.
struct Group {
  std::string name;
  Scores scores;
  int32_t order = 0;  // of the groups of all policies, then by name
};

struct Cost {  // means over answers, but for the peak
  double responses = 0, prompt_tokens = 0, tokens = 0, events = 0, seconds = 0;
  double mean_slots = 0, kv_bytes = 0;  // while tokens were drawn; bytes: slots * SlotBytes
  int32_t peak_slots = 0;
  double cut = 0;  // share of answers that ended by length
};

// Minus the first policy, over the samples that both answered, prompt by prompt.
struct Paired {
  std::optional<Estimate> pass_1, avg;
  SignTest signs;  // of the prompts' mean rewards
};

struct PolicySummary {
  std::string name, text;
  int64_t missing = 0;  // answers; no part of anything below
  Scores all;
  std::vector<Group> tasks, tags, events;
  Cost cost;
  std::optional<Paired> paired;  // absent for the first policy
};

struct Summary {
  Plan plan;
  ModelFacts model;
  std::vector<PolicySummary> policies;
  std::vector<Missing> missing;
};

inline constexpr int kResamples = 2000;

// Answers that are not of the plan are passed over. Pure.
Summary Summarize(const Plan& plan, const ModelFacts& model,
                  const std::map<AnswerKey, Answer>& answers, std::vector<Missing> missing);

// "0", "1", "2", "3-4", "5-8", "9-16", ..: events are grouped so.
std::string EventGroup(int32_t events);

}  // namespace palimpsest::tools::eval
