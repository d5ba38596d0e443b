#include "services/orchestrator/engine/report_page.h"

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
#include "services/orchestrator/engine/evaluation.h"
#include "services/orchestrator/engine/transcript.h"

namespace palimpsest::orchestrator {
namespace {

std::string Row(const std::string& name, const HeldoutNumbers& numbers) {
  double memory = 0;
  int n = 0;
  std::vector<double> rewards;
  for (const EvaluationRow& row : numbers.sampled) {
    rewards.push_back(row.reward);
    if (!row.needs_memory) continue;
    memory += row.reward;
    ++n;
  }
  return absl::StrFormat("| %s | %.3f ± %.3f | %.3f | %.3f (%d) | %d |\n", name,
                         MeanReward(numbers.sampled), HalfInterval(rewards),
                         MeanReward(numbers.greedy), n > 0 ? memory / n : 0.0, n,
                         numbers.sampled.size());
}

// A prompt that is kept whole; null when there is none.
const EvaluationRow* Kept(const HeldoutNumbers& numbers, int64_t index) {
  for (const EvaluationRow& row : numbers.sampled) {
    if (row.index == index && !row.bytes.empty()) return &row;
  }
  return nullptr;
}

// The prompt to show: one that needs memory and gained most, among those kept whole.
int64_t BestExample(const ReportFacts& facts) {
  int64_t best = 0;
  double gain = -2;
  for (const EvaluationRow& before : facts.first.sampled) {
    const EvaluationRow* const after = Kept(facts.last, before.index);
    if (before.bytes.empty() || after == nullptr) continue;
    const double value = after->reward - before.reward - (before.needs_memory ? 0 : 1);
    if (value > gain) {
      gain = value;
      best = before.index;
    }
  }
  return best;
}

absl::StatusOr<std::string> Example(const Workplace& place, const std::string& title,
                                    const HeldoutNumbers& numbers, int64_t index) {
  const EvaluationRow* const row = Kept(numbers, index);
  if (row == nullptr) return std::string();
  ASSIGN_OR_RETURN(const rl::Rollout rollout, place.peers.codec.Decode(row->bytes));
  return absl::StrFormat("### %s: reward %.2f\n\n%s\n\n%s\n", title, row->reward,
                         Printable(row->reason), Transcript(rollout, *place.tokenizer, 0, 0));
}

}  // namespace

absl::StatusOr<std::string> ReportPage(const Workplace& place, const ReportFacts& facts) {
  std::string page = absl::StrFormat("# Run %s\n\n", facts.run.name);
  if (!facts.run.command.empty()) page += absl::StrFormat("```\n%s\n```\n\n", facts.run.command);
  page +=
      "Held-out prompts, the same ones each time; ± is a 95 % interval over prompts.\n\n"
      "| | reward at T = 1 | greedy | T = 1 where memory is needed | prompts "
      "|\n|---|---|---|---|---|\n";
  page += Row("before RL", facts.first) + Row("after RL", facts.last);
  for (const auto& [context, numbers] : facts.also) {
    page += Row("after RL, under " + context, numbers);
  }
  if (facts.last_by_task.size() > 1) {
    for (const auto& [task, numbers] : facts.first_by_task) {
      page += Row(task + ", before RL", numbers);
    }
    for (const auto& [task, numbers] : facts.last_by_task)
      page += Row(task + ", after RL", numbers);
  }
  const int64_t unjudged = facts.first.unjudged + facts.last.unjudged;
  if (unjudged > 0) {
    page += absl::StrFormat("\n%d measurements of held-out prompts failed and count nowhere.\n",
                            unjudged);
  }
  page += "\n![learning curve](learning_curve.svg)\n\n| number | value |\n|---|---|\n";
  const auto report = nlohmann::ordered_json::parse(ReportJson(facts));
  for (const auto& [key, value] : report.items()) {
    if (value.is_number()) page += absl::StrFormat("| %s | %s |\n", key, value.dump());
  }
  const int64_t index = BestExample(facts);
  page += absl::StrFormat("\n## One held-out prompt before and after (index %d, T = 1)\n\n", index);
  ASSIGN_OR_RETURN(const std::string before, Example(place, "Before RL", facts.first, index));
  ASSIGN_OR_RETURN(const std::string after, Example(place, "After RL", facts.last, index));
  return page + before + after;
}

}  // namespace palimpsest::orchestrator
