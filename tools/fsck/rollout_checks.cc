// Rollouts: rewards, versions, messages, and what there is of those that were cut.
#include <cmath>
#include <set>

#include "tools/fsck/finding.h"

namespace palimpsest::tools {

Check NoFailureBecameAReward(const LedgerRows& ledger) {
  Check check{.name = "no_failure_became_a_reward"};
  const std::map<int64_t, int64_t> steps = StepsOfPrompts(ledger);
  for (const LedgerRollout& r : ledger.rollouts) {
    ++check.looked_at;
    const auto step = steps.find(r.prompt);
    const std::string where =
        step == steps.end() ? "no batch yet" : absl::StrFormat("step %d", step->second);
    if (!IsJudged(r) && (r.reward.has_value() || step != steps.end())) {
      Find(check, "%s: %s has outcome %d, which is a failure, and counts with reward %g", where,
           Named(r), static_cast<int>(r.outcome), r.reward.value_or(0));
    }
    if (step == steps.end()) continue;
    if (!r.reward.has_value() || !std::isfinite(*r.reward)) {
      Find(check, "%s: %s has no finite reward and would count as 0", where, Named(r));
    }
    if (!r.advantage.has_value() || !std::isfinite(*r.advantage)) {
      Find(check, "%s: %s has no finite advantage", where, Named(r));
    }
  }
  return check;
}

Check RolloutsNameTheirVersions(const LedgerRows& ledger) {
  Check check{.name = "rollouts_name_their_versions"};
  const std::map<int64_t, int64_t> steps = StepsOfPrompts(ledger);
  for (const LedgerRollout& r : ledger.rollouts) {
    const auto step = steps.find(r.prompt);
    if (step == steps.end()) continue;
    ++check.looked_at;
    for (const int64_t version : std::set{r.min_version, r.max_version}) {
      const auto made = ledger.versions.find(version);
      if (made == ledger.versions.end()) {
        Find(check, "step %d: %s names version %d, which the ledger does not know", step->second,
             Named(r), version);
      } else if (made->second.step >= step->second) {
        Find(check, "step %d: %s was made by version %d of step %d, which came later", step->second,
             Named(r), version, made->second.step);
      }
    }
    if (r.max_version < r.min_version) {
      Find(check, "step %d: %s has versions %d to %d", step->second, Named(r), r.min_version,
           r.max_version);
    }
  }
  return check;
}

Check MessagesSayWhatTheLedgerSays(const LedgerRows& ledger) {
  Check check{.name = "messages_say_what_the_ledger_says"};
  for (const LedgerRollout& r : ledger.rollouts) {
    if (!r.message) continue;
    ++check.looked_at;
    if (!r.message->damage.empty()) {
      Find(check, "%s is damaged: %s", Named(r), r.message->damage);
      continue;
    }
    if (r.message->id != r.id) Find(check, "%s calls itself %s", Named(r), r.message->id);
    const auto same = [&](const char* what, int64_t row, int64_t message) {
      if (row != message)
        Find(check, "%s: %s is %d, its message says %d", Named(r), what, row, message);
    };
    same("prompt_tokens", r.prompt_tokens, r.message->prompt_tokens);
    same("total_tokens", r.total_tokens, r.message->total_tokens);
    same("events", r.events, r.message->events);
    same("min_version", r.min_version, r.message->min_version);
    same("max_version", r.max_version, r.message->max_version);
  }
  return check;
}

namespace {

// `episode`: of several turns, how many whole responses it has. A session's log is of sample 0 and
// was left behind a response.
void CheckCutLog(const LedgerCut& cut, const std::string& name, const int64_t* episode,
                 Check& check) {
  const LedgerMessage& log = cut.message;
  if (!log.damage.empty()) {
    Find(check, "%s is damaged: %s", name, log.damage);
  } else if (log.sample != (episode ? 0 : cut.sample)) {
    Find(check, "%s says that it is of sample %d", name, log.sample);
  } else if (episode && !log.ends_sampled) {
    Find(check, "%s does not end with a response", name);
  } else if (episode && log.sampled_runs > *episode) {
    Find(check, "%s has %d responses, its episode was kept at %d", name, log.sampled_runs,
         *episode);
  }
}

}  // namespace

Check CutSamplesCanGoOn(const LedgerRows& ledger) {
  Check check{.name = "cut_samples_can_go_on"};
  auto episodes = ledger.cut_episodes;
  std::map<int64_t, int64_t> states;
  for (const LedgerPrompt& prompt : ledger.prompts) states[prompt.id] = prompt.state;
  std::set<std::pair<int64_t, int64_t>> accepted;
  for (const LedgerRollout& r : ledger.rollouts) accepted.emplace(r.prompt, r.sample);
  for (const LedgerCut& cut : ledger.cuts) {
    ++check.looked_at;
    const auto name =
        absl::StrFormat("what was cut of sample %d of prompt %d", cut.sample, cut.prompt);
    const auto state = states.find(cut.prompt);
    if (state == states.end()) {
      Find(check, "%s: there is no such prompt", name);
    } else if (state->second != LedgerPrompt::kOpen) {
      Find(check, "%s: the prompt is not open any more", name);
    }
    if (accepted.count({cut.prompt, cut.sample}) > 0) {
      Find(check, "%s: its rollout was accepted", name);
    }
    const auto episode = episodes.extract({cut.prompt, cut.sample});
    CheckCutLog(cut, name, episode.empty() ? nullptr : &episode.mapped(), check);
  }
  for (const auto& [of, responses] : episodes) {
    Find(check, "what was cut of sample %d of prompt %d: its episode is there, its log is not",
         of.second, of.first);
  }
  return check;
}

Check StalenessIsBounded(const LedgerRows& ledger, int64_t bound) {
  Check check{.name = "staleness_is_bounded"};
  const std::map<int64_t, int64_t> steps = StepsOfPrompts(ledger);
  for (const LedgerRollout& r : ledger.rollouts) {
    const auto step = steps.find(r.prompt);
    const auto made = ledger.versions.find(r.min_version);
    if (step == steps.end() || made == ledger.versions.end()) continue;
    ++check.looked_at;
    const int64_t staleness = step->second - 1 - made->second.step;
    if (staleness > bound) {
      Find(check, "step %d: %s is %d steps old (version %d of step %d), the bound is %d",
           step->second, Named(r), staleness, r.min_version, made->second.step, bound);
    }
  }
  for (const auto& [step, staleness] : ledger.recorded) {
    if (staleness <= bound) continue;
    Find(check, "step %d was trained with a recorded staleness of %d, the bound is %d", step,
         staleness, bound);
  }
  return check;
}

}  // namespace palimpsest::tools
