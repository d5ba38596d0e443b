#include "tools/eval/summary.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <set>

#include "absl/strings/str_format.h"

namespace palimpsest::tools::eval {
namespace {

using PromptName = std::pair<std::string, int64_t>;  // task, index

// All prompts of the plan, and a policy's answers to each, by sample.
struct Table {
  std::vector<PromptName> prompts;
  std::vector<int> strata;  // [prompts] place of the task
  // [policies][prompts] sample -> answer
  std::vector<std::vector<std::map<int32_t, const Answer*>>> answers;
};

Table MakeTable(const Plan& plan, const std::map<AnswerKey, Answer>& answers) {
  Table table;
  for (size_t task = 0; task < plan.tasks.size(); ++task) {
    for (int64_t index = 0; index < plan.tasks[task].prompts; ++index) {
      table.prompts.push_back({plan.tasks[task].name, index});
      table.strata.push_back(static_cast<int>(task));
    }
  }
  for (const Policy& policy : plan.policies) {
    auto& rows = table.answers.emplace_back(table.prompts.size());
    for (size_t i = 0; i < rows.size(); ++i) {
      for (int32_t sample = 0; sample < plan.samples; ++sample) {
        const auto& [task, index] = table.prompts[i];
        const auto found = answers.find({task, plan.split, plan.seed, index, policy.name, sample});
        if (found != answers.end()) rows[i][sample] = &found->second;
      }
    }
  }
  return table;
}

using Rows = std::vector<std::map<int32_t, const Answer*>>;
using Chosen = std::function<bool(const Answer&)>;

// The k of pass@k beside 1: powers of two, and the number of samples.
std::vector<int32_t> ManyK(int32_t samples) {
  std::vector<int32_t> many;
  for (int32_t k = 2; k < samples; k *= 2) many.push_back(k);
  if (samples > 1) many.push_back(samples);
  return many;
}

struct Count {
  int64_t answers = 0, right = 0;
  double reward = 0;
  std::map<std::string, Part> parts;
};

std::vector<Count> CountChosen(const Rows& rows, double right, const Chosen& chosen) {
  std::vector<Count> counts(rows.size());
  for (size_t i = 0; i < rows.size(); ++i) {
    for (const auto& [sample, answer] : rows[i]) {
      if (!chosen(*answer)) continue;
      ++counts[i].answers;
      counts[i].right += answer->reward >= right ? 1 : 0;
      counts[i].reward += answer->reward;
      for (const auto& [name, value] : answer->parts) {
        Part& part = counts[i].parts[name];
        part.sum += value;
        part.count += 1;
      }
    }
  }
  return counts;
}

// Every prompt weighs the same, however many of its answers there are.
Scores ByPrompt(const Plan& plan, const Bootstrap& bootstrap, const std::vector<Count>& counts) {
  const size_t n = counts.size();
  Scores scores;
  std::vector<Part> pass(n), avg(n);
  for (size_t i = 0; i < n; ++i) {
    if (counts[i].answers == 0) continue;
    const auto answers = static_cast<double>(counts[i].answers);
    ++scores.prompts;
    scores.answers += counts[i].answers;
    pass[i] = {static_cast<double>(counts[i].right) / answers, 1};
    avg[i] = {counts[i].reward / answers, 1};
  }
  scores.pass_1 = bootstrap.Mean(pass);
  scores.avg = bootstrap.Mean(avg);
  for (const int32_t k : ManyK(plan.samples)) {
    std::vector<Part> parts(n);
    for (size_t i = 0; i < n; ++i) {
      if (counts[i].answers < k) continue;
      parts[i] = {PassAtK(counts[i].answers, counts[i].right, k), 1};
    }
    if (const auto estimate = bootstrap.Mean(parts)) scores.pass_k.push_back({k, *estimate});
  }
  std::map<std::string, std::vector<Part>> by_name;
  for (size_t i = 0; i < n; ++i) {
    for (const auto& [name, part] : counts[i].parts) {
      by_name.try_emplace(name, n).first->second[i] = {part.sum / part.count, 1};
    }
  }
  for (const auto& [name, parts] : by_name) scores.parts[name] = *bootstrap.Mean(parts);
  return scores;
}

// Every answer weighs the same; prompts are still what is drawn.
Scores ByAnswer(const Bootstrap& bootstrap, const std::vector<Count>& counts) {
  Scores scores;
  std::vector<Part> pass, avg;
  for (const Count& count : counts) {
    const auto answers = static_cast<double>(count.answers);
    scores.prompts += count.answers > 0 ? 1 : 0;
    scores.answers += count.answers;
    pass.push_back({static_cast<double>(count.right), answers});
    avg.push_back({count.reward, answers});
  }
  scores.pass_1 = bootstrap.Mean(pass);
  scores.avg = bootstrap.Mean(avg);
  return scores;
}

// The last count of the group that holds `events`: 0, 1, 2, 4, 8, ...
int32_t GroupEnd(int32_t events) {
  int32_t end = std::min(events, 1);
  while (end < events) end *= 2;
  return end;
}

Cost CostOf(const ModelFacts& model, const Rows& rows) {
  Cost cost;
  double answers = 0;
  for (const auto& row : rows) {
    for (const auto& [sample, answer] : row) {
      ++answers;
      cost.responses += answer->responses;
      cost.prompt_tokens += answer->prompt_tokens;
      cost.tokens += answer->tokens;
      cost.events += answer->events;
      cost.seconds += answer->seconds;
      cost.mean_slots += answer->mean_slots;
      cost.peak_slots = std::max(cost.peak_slots, answer->peak_slots);
      cost.cut += answer->finish == "length" ? 1 : 0;
    }
  }
  for (double* mean : {&cost.responses, &cost.prompt_tokens, &cost.tokens, &cost.events,
                       &cost.seconds, &cost.mean_slots, &cost.cut}) {
    *mean /= std::max(answers, 1.0);
  }
  cost.kv_bytes = cost.mean_slots * static_cast<double>(SlotBytes(model));
  return cost;
}

Paired Compare(const Plan& plan, const Bootstrap& bootstrap, const Rows& rows, const Rows& first) {
  std::vector<Part> pass(rows.size()), avg(rows.size());
  std::vector<double> differences;
  for (size_t i = 0; i < rows.size(); ++i) {
    double both = 0, reward = 0, right = 0;
    for (const auto& [sample, answer] : rows[i]) {
      const auto other = first[i].find(sample);
      if (other == first[i].end()) continue;
      ++both;
      reward += answer->reward - other->second->reward;
      right +=
          (answer->reward >= plan.right ? 1 : 0) - (other->second->reward >= plan.right ? 1 : 0);
    }
    if (both == 0) continue;
    pass[i] = {right / both, 1};
    avg[i] = {reward / both, 1};
    // The same rewards in another order add up to something like 1e-17.
    differences.push_back(std::abs(reward) < 1e-9 ? 0 : reward / both);
  }
  return {bootstrap.Mean(pass), bootstrap.Mean(avg), TestSigns(differences)};
}

PolicySummary SummarizePolicy(const Plan& plan, const ModelFacts& model, const Bootstrap& bootstrap,
                              const Policy& policy, const Rows& rows) {
  const auto counts = [&](const Chosen& chosen) { return CountChosen(rows, plan.right, chosen); };
  PolicySummary summary{.name = policy.name, .text = policy.text};
  summary.all = ByPrompt(plan, bootstrap, counts([](const Answer&) { return true; }));
  summary.cost = CostOf(model, rows);
  std::set<std::string> tags;
  std::set<int32_t> events;
  for (const auto& row : rows) {
    for (const auto& [sample, answer] : row) {
      tags.insert(answer->tags.begin(), answer->tags.end());
      events.insert(GroupEnd(answer->events));
    }
  }
  for (const TaskShare& task : plan.tasks) {
    const auto of_task = [&](const Answer& a) { return a.key.task == task.name; };
    const auto place = static_cast<int32_t>(summary.tasks.size());
    summary.tasks.push_back({task.name, ByPrompt(plan, bootstrap, counts(of_task)), place});
  }
  for (const std::string& tag : tags) {
    const auto tagged = [&](const Answer& a) {
      return std::find(a.tags.begin(), a.tags.end(), tag) != a.tags.end();
    };
    summary.tags.push_back({tag, ByPrompt(plan, bootstrap, counts(tagged))});
  }
  for (const int32_t end : events) {
    const auto in_group = [&](const Answer& a) { return GroupEnd(a.events) == end; };
    summary.events.push_back({EventGroup(end), ByAnswer(bootstrap, counts(in_group)), end});
  }
  return summary;
}

}  // namespace

std::string EventGroup(int32_t events) {
  const int32_t end = GroupEnd(events);
  return end <= 2 ? absl::StrFormat("%d", end) : absl::StrFormat("%d-%d", end / 2 + 1, end);
}

Summary Summarize(const Plan& plan, const ModelFacts& model,
                  const std::map<AnswerKey, Answer>& answers, std::vector<Missing> missing) {
  const Table table = MakeTable(plan, answers);
  const Bootstrap bootstrap(table.strata, kResamples, plan.seed);
  Summary summary{.plan = plan, .model = model, .missing = std::move(missing)};
  for (size_t i = 0; i < plan.policies.size(); ++i) {
    PolicySummary policy =
        SummarizePolicy(plan, model, bootstrap, plan.policies[i], table.answers[i]);
    for (const Missing& one : summary.missing) {
      policy.missing += one.key.policy == policy.name ? 1 : 0;
    }
    if (i > 0) policy.paired = Compare(plan, bootstrap, table.answers[i], table.answers[0]);
    summary.policies.push_back(std::move(policy));
  }
  return summary;
}

}  // namespace palimpsest::tools::eval
