#include "services/orchestrator/engine/report_page.h"

#include "absl/strings/str_format.h"
#include "nlohmann/json.hpp"
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

// The prompt to show: one that needs memory and gained most, among those kept whole.
size_t BestExample(const ReportFacts& facts) {
  size_t best = 0;
  double gain = -2;
  for (size_t i = 0; i < facts.first.sampled.size() && i < facts.last.sampled.size(); ++i) {
    const EvaluationRow& before = facts.first.sampled[i];
    const EvaluationRow& after = facts.last.sampled[i];
    if (before.bytes.empty() || after.bytes.empty()) continue;
    const double value = after.reward - before.reward - (before.needs_memory ? 0 : 1);
    if (value > gain) {
      gain = value;
      best = i;
    }
  }
  return best;
}

absl::StatusOr<std::string> Example(const Workplace& place, const std::string& title,
                                    const HeldoutNumbers& numbers, size_t index) {
  if (index >= numbers.sampled.size() || numbers.sampled[index].bytes.empty()) return std::string();
  const EvaluationRow& row = numbers.sampled[index];
  ASSIGN_OR_RETURN(const rl::Rollout rollout, place.peers.codec.Decode(row.bytes));
  return absl::StrFormat("### %s: reward %.2f\n\n%s\n\n%s\n", title, row.reward,
                         Printable(row.reason), Transcript(rollout, *place.tokenizer, 0, 0));
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
  page += "\n![learning curve](learning_curve.svg)\n\n| number | value |\n|---|---|\n";
  const auto report = nlohmann::ordered_json::parse(ReportJson(facts));
  for (const auto& [key, value] : report.items()) {
    if (value.is_number()) page += absl::StrFormat("| %s | %s |\n", key, value.dump());
  }
  const size_t index = BestExample(facts);
  page += absl::StrFormat("\n## One held-out prompt before and after (index %d, T = 1)\n\n", index);
  ASSIGN_OR_RETURN(const std::string before, Example(place, "Before RL", facts.first, index));
  ASSIGN_OR_RETURN(const std::string after, Example(place, "After RL", facts.last, index));
  return page + before + after;
}

}  // namespace palimpsest::orchestrator
