#include <algorithm>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "tools/eval/report.h"

namespace palimpsest::tools::eval {
namespace {

constexpr size_t kMissingShown = 10;

using Row = std::vector<std::string>;

std::string TableText(const Row& head, const std::vector<Row>& rows) {
  std::string text = "| " + absl::StrJoin(head, " | ") + " |\n|---|";
  for (size_t i = 1; i < head.size(); ++i) text += "---:|";
  text += "\n";
  for (const Row& row : rows) text += "| " + absl::StrJoin(row, " | ") + " |\n";
  return text;
}

std::string Number(const std::optional<Estimate>& e) {
  return e ? absl::StrFormat("%.3f [%.3f, %.3f]", e->value, e->low, e->high) : "-";
}

std::string Signed(const std::optional<Estimate>& e) {
  return e ? absl::StrFormat("%+.3f [%+.3f, %+.3f]", e->value, e->low, e->high) : "-";
}

std::string ScoresTable(const Summary& summary) {
  const int32_t samples = summary.plan.samples;
  Row head = {"policy", "answers", "missing", "pass@1", absl::StrFormat("avg@%d, reward", samples)};
  if (samples > 1) head.push_back(absl::StrFormat("pass@%d", samples));
  std::vector<Row> rows;
  for (const PolicySummary& policy : summary.policies) {
    const Scores& all = policy.all;
    rows.push_back({policy.name, absl::StrFormat("%d", all.answers),
                    absl::StrFormat("%d", policy.missing), Number(all.pass_1), Number(all.avg)});
    if (samples == 1) continue;
    const bool has = !all.pass_k.empty() && all.pass_k.back().first == samples;
    rows.back().push_back(Number(has ? std::optional(all.pass_k.back().second) : std::nullopt));
  }
  return TableText(head, rows);
}

std::string PairedTable(const Summary& summary) {
  std::vector<Row> rows;
  for (const PolicySummary& policy : summary.policies) {
    if (!policy.paired) continue;
    const SignTest& signs = policy.paired->signs;
    rows.push_back({policy.name, Signed(policy.paired->pass_1), Signed(policy.paired->avg),
                    absl::StrFormat("%d / %d / %d", signs.better, signs.worse, signs.equal),
                    absl::StrFormat("%.2g", signs.p)});
  }
  return TableText({"minus " + summary.policies.front().name, "pass@1", "reward",
                    "prompts better / worse / equal", "p of the sign test"},
                   rows);
}

// A row per group that any policy has.
std::string GroupsTable(const Summary& summary, const std::string& what,
                        std::vector<Group> PolicySummary::*groups) {
  Row head = {what};
  std::set<std::pair<int32_t, std::string>> names;
  for (const PolicySummary& policy : summary.policies) {
    head.push_back(policy.name);
    for (const Group& group : policy.*groups) names.insert({group.order, group.name});
  }
  std::vector<Row> rows;
  for (const auto& [order, name] : names) {
    Row row = {name};
    for (const PolicySummary& policy : summary.policies) {
      const auto& all = policy.*groups;
      const auto group =
          std::find_if(all.begin(), all.end(), [&](const Group& g) { return g.name == name; });
      row.push_back(group == all.end() || !group->scores.avg
                        ? "-"
                        : absl::StrFormat("%.3f, %.3f (%d)", group->scores.pass_1->value,
                                          group->scores.avg->value, group->scores.answers));
    }
    rows.push_back(std::move(row));
  }
  return TableText(head, rows);
}

// Empty when no reward has parts.
std::string PartsTable(const Summary& summary) {
  Row head = {"part of the reward"};
  std::set<std::string> names;
  for (const PolicySummary& policy : summary.policies) {
    head.push_back(policy.name);
    for (const auto& [name, estimate] : policy.all.parts) names.insert(name);
  }
  std::vector<Row> rows;
  for (const std::string& name : names) {
    Row row = {name};
    for (const PolicySummary& policy : summary.policies) {
      const auto part = policy.all.parts.find(name);
      row.push_back(
          Number(part == policy.all.parts.end() ? std::nullopt : std::optional(part->second)));
    }
    rows.push_back(std::move(row));
  }
  return rows.empty() ? "" : TableText(head, rows) + "\n";
}

std::string CostTable(const Summary& summary) {
  std::vector<Row> rows;
  for (const PolicySummary& policy : summary.policies) {
    const Cost& c = policy.cost;
    rows.push_back({policy.name, absl::StrFormat("%.1f", c.responses),
                    absl::StrFormat("%.0f + %.0f", c.prompt_tokens, c.tokens),
                    absl::StrFormat("%.1f", c.events), absl::StrFormat("%.1f", c.mean_slots),
                    absl::StrFormat("%d", c.peak_slots), absl::StrFormat("%.1f", c.kv_bytes / 1024),
                    absl::StrFormat("%.2f", c.seconds), absl::StrFormat("%.0f %%", 100 * c.cut)});
  }
  return TableText({"per answer", "responses", "tokens", "events", "live slots", "most", "KV, KiB",
                    "seconds", "ended by length"},
                   rows);
}

std::string MissingPart(const Summary& summary) {
  if (summary.missing.empty()) return "";
  std::string text = absl::StrFormat(
      "## Missing\n\n%d answers could not be had. They are no part of any number above; the same "
      "command asks for them again.\n\n",
      summary.missing.size());
  for (size_t i = 0; i < std::min(summary.missing.size(), kMissingShown); ++i) {
    text += absl::StrFormat("- %s: %s\n", Text(summary.missing[i].key), summary.missing[i].why);
  }
  return text + "\n";
}

std::string Introduction(const Summary& summary, const std::string& command) {
  const Plan& plan = summary.plan;
  const ModelFacts& model = summary.model;
  Row tasks;
  for (const TaskShare& task : plan.tasks) {
    tasks.push_back(absl::StrFormat("%s (%d)", task.name, task.prompts));
  }
  std::string text = absl::StrFormat("# Evaluation\n\n`%s`\n\n", command);
  text += absl::StrFormat(
      "%s of %d layers, hidden %d, %d KV heads of %d, %s, policy version %d. Prompts: %s; split "
      "%s, seed %d; answers to each: %d; temperature %g. An answer is right from a reward of %g "
      "on.\n\n",
      model.architecture, model.layers, model.hidden, model.kv_heads, model.head_dim, model.dtype,
      model.policy_version, absl::StrJoin(tasks, ", "), plan.split, plan.seed, plan.samples,
      plan.temperature, plan.right);
  return text +
         "In brackets are 95 % intervals by bootstrap over prompts within their task. All policies "
         "have the same prompts, the same seeds and share a draw, so differences are paired; the "
         "sign test asks of how many prompts the mean reward rose or fell.\n\n";
}

}  // namespace

std::string ReportPage(const Summary& summary, const std::string& command) {
  std::string page = Introduction(summary, command) + "![scores](eval.svg)\n\n## Scores\n\n" +
                     ScoresTable(summary) + "\n" + PartsTable(summary);
  if (summary.policies.size() > 1)
    page += "## Differences, paired\n\n" + PairedTable(summary) + "\n";
  page += "## By task\n\npass@1, reward (answers).\n\n" +
          GroupsTable(summary, "task", &PolicySummary::tasks) + "\n";
  const bool tagged = std::any_of(summary.policies.begin(), summary.policies.end(),
                                  [](const PolicySummary& p) { return !p.tags.empty(); });
  if (tagged) {
    page += "By what the environment says of a prompt:\n\n" +
            GroupsTable(summary, "tag", &PolicySummary::tags) + "\n";
  }
  page += "## By number of events\n\nShare of right answers, reward (answers).\n\n" +
          GroupsTable(summary, "events", &PolicySummary::events) + "\n";
  page +=
      "## Cost\n\nResponses are the turns of an episode, or the attempts of an aggregation; "
      "tokens, "
      "events and seconds are those of all. Live slots are those of the fullest head while tokens "
      "were drawn. Seconds are "
      "the server's, which answered other requests meanwhile.\n\n" +
      CostTable(summary) + "\n" + MissingPart(summary);
  page += "## Policies\n\n";
  for (const PolicySummary& policy : summary.policies) {
    page += absl::StrFormat("- %s: `%s`\n", policy.name,
                            policy.text.empty() ? "kind=none" : policy.text);
  }
  return page;
}

}  // namespace palimpsest::tools::eval
