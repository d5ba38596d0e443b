// What became of rewards: the means of steps and the advantages of groups.
#include <algorithm>
#include <cmath>

#include "absl/strings/numbers.h"
#include "common/rl/advantage_kinds.h"
#include "tools/fsck/finding.h"

namespace palimpsest::tools {
namespace {

// The same numbers added in another order.
bool Agree(double a, double b) { return std::abs(a - b) <= 1e-9 * std::max(1.0, std::abs(b)); }

// What the orchestrator takes advantages with.
struct Recipe {
  rl::AdvantageOptions advantage;
  rl::OverlongOptions overlong;
  bool needs_lengths() const {
    return overlong.limit > 0 || advantage.kind == rl::AdvantageKind::kLengthWeighted;
  }
};

// nullopt: the ledger does not hold all of it.
std::optional<Recipe> RecipeOf(const std::map<std::string, std::string>& settings) {
  const auto held = [&](const std::string& key) {
    const auto found = settings.find("orchestrator.rl." + key);
    return found == settings.end() ? std::string() : found->second;
  };
  Recipe recipe;
  const auto* const kind =
      std::find_if(rl::kAdvantageKinds.begin(), rl::kAdvantageKinds.end(),
                   [&](const auto& named) { return named.first == held("advantage"); });
  if (kind == rl::kAdvantageKinds.end() ||
      !absl::SimpleAtod(held("advantage_eps"), &recipe.advantage.epsilon) ||
      !absl::SimpleAtoi(held("overlong.limit"), &recipe.overlong.limit) ||
      !absl::SimpleAtoi(held("overlong.stretch"), &recipe.overlong.stretch) ||
      !absl::SimpleAtod(held("overlong.penalty"), &recipe.overlong.penalty) ||
      !rl::Validate(recipe.overlong).ok()) {
    return std::nullopt;
  }
  recipe.advantage.kind = kind->second;
  return recipe;
}

using Group = std::vector<const LedgerRollout*>;

// Those that lack something are told by NoFailureBecameAReward.
bool Counts(const Group& group) {
  return std::all_of(group.begin(), group.end(), [](const LedgerRollout* r) {
    return IsJudged(*r) && r->reward && std::isfinite(*r->reward) && r->advantage &&
           std::isfinite(*r->advantage);
  });
}

// Sampled tokens of each, at least 1; empty when a message cannot be read.
std::vector<int64_t> LengthsOf(const Group& group) {
  std::vector<int64_t> lengths;
  for (const LedgerRollout* r : group) {
    if (!r->message || !r->message->damage.empty()) return {};
    lengths.push_back(std::max<int64_t>(1, r->message->sampled_tokens));
  }
  return lengths;
}

void CheckRecomputed(int64_t step, const Group& group, const Recipe& recipe,
                     const std::vector<int64_t>& lengths, Check& check) {
  std::vector<double> rewards;
  for (size_t i = 0; i < group.size(); ++i) {
    rewards.push_back(*group[i]->reward + rl::OverlongPenalty(recipe.overlong, lengths[i]));
  }
  const std::vector<double> advantages = rl::GroupAdvantages(recipe.advantage, rewards, lengths);
  for (size_t i = 0; i < group.size(); ++i) {
    if (Agree(*group[i]->advantage, advantages[i])) continue;
    Find(check, "step %d: %s has advantage %g, the rewards of its group give %g", step,
         Named(*group[i]), *group[i]->advantage, advantages[i]);
  }
}

// Holds of all kinds: the baseline is a mean of the group, plain or by lengths. Without lengths
// only that some are not above it, and some not below.
void CheckBalance(int64_t step, const Group& group, const std::vector<int64_t>& lengths,
                  Check& check) {
  double plain = 0, weighted = 0, size = 0, least = INFINITY, most = -INFINITY;
  for (size_t i = 0; i < group.size(); ++i) {
    const double advantage = *group[i]->advantage;
    plain += advantage;
    size += std::abs(advantage);
    least = std::min(least, advantage);
    most = std::max(most, advantage);
    if (!lengths.empty()) weighted += advantage * static_cast<double>(lengths[i]);
  }
  const double longest =
      lengths.empty() ? 0 : static_cast<double>(*std::max_element(lengths.begin(), lengths.end()));
  const double slack = 1e-9 * (1 + size);
  if (lengths.empty() ? least <= slack && most >= -slack
                      : std::abs(plain) <= slack || std::abs(weighted) <= slack * longest) {
    return;
  }
  Find(check, "step %d: the advantages of prompt %d do not balance: their sum is %g", step,
       group.front()->prompt, plain);
}

void CheckStepReward(const LedgerBatch& batch, const std::vector<const Group*>& groups,
                     const LedgerRows& ledger, Check& check) {
  const auto recorded = ledger.rewards.find(batch.step);
  if (ledger.recorded.count(batch.step) == 0) return;
  if (!batch.rl || recorded == ledger.rewards.end()) {
    if (batch.rl == (recorded != ledger.rewards.end())) return;
    Find(check, "%s is %s, and was recorded with %s", Named(batch),
         batch.rl ? "of rollouts" : "of demonstrations", batch.rl ? "no reward" : "a reward");
    return;
  }
  double sum = 0, n = 0;
  for (const Group* group : groups) {
    if (!Counts(*group)) return;
    for (const LedgerRollout* r : *group) sum += *r->reward;
    n += static_cast<double>(group->size());
  }
  if (n == 0 || Agree(recorded->second, sum / n)) return;
  Find(check, "%s was recorded with reward %g, its rollouts have %g", Named(batch),
       recorded->second, sum / n);
}

}  // namespace

Check AdvantagesAreOfTheirRewards(const LedgerRows& ledger) {
  Check check{.name = "advantages_are_of_their_rewards"};
  const std::map<int64_t, int64_t> steps = StepsOfPrompts(ledger);
  const std::optional<Recipe> recipe = RecipeOf(ledger.settings);
  std::map<int64_t, Group> groups;
  for (const LedgerRollout& r : ledger.rollouts) {
    if (steps.contains(r.prompt)) groups[r.prompt].push_back(&r);
  }
  std::map<int64_t, std::vector<const Group*>> of_step;
  int64_t balanced = 0;
  for (const auto& [prompt, group] : groups) {
    const int64_t step = steps.at(prompt);
    of_step[step].push_back(&group);
    if (!Counts(group)) continue;
    ++check.looked_at;
    std::vector<int64_t> lengths = LengthsOf(group);
    if (recipe && (!lengths.empty() || !recipe->needs_lengths())) {
      lengths.resize(group.size(), 1);
      CheckRecomputed(step, group, *recipe, lengths, check);
    } else {
      CheckBalance(step, group, lengths, check);
      ++balanced;
    }
  }
  for (const LedgerBatch& batch : ledger.batches) {
    CheckStepReward(batch, of_step[batch.step], ledger, check);
  }
  if (balanced > 0) {
    check.notes.push_back(absl::StrFormat(
        "of %d groups the advantages are only seen to balance: the ledger does not hold %s",
        balanced, recipe ? "all their messages" : "the settings that they were taken with"));
  }
  return check;
}

}  // namespace palimpsest::tools
