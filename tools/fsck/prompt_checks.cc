// Prompts and their rollouts; batches and versions stand in training_checks.cc.
#include <algorithm>
#include <cmath>
#include <set>

#include "tools/fsck/finding.h"

namespace palimpsest::tools {
namespace {

std::string StateName(int64_t state) {
  switch (state) {
    case LedgerPrompt::kOpen:
      return "open";
    case LedgerPrompt::kReady:
      return "ready";
    case LedgerPrompt::kBatched:
      return "batched";
    case LedgerPrompt::kDropped:
      return "dropped";
    default:
      return absl::StrFormat("unknown (%d)", state);
  }
}

bool IsKnown(int64_t state) {
  return state >= LedgerPrompt::kOpen && state <= LedgerPrompt::kDropped;
}

std::map<int64_t, int64_t> StepsOfPrompts(const LedgerRows& ledger) {
  std::map<int64_t, int64_t> steps;
  for (const LedgerPrompt& prompt : ledger.prompts) {
    if (prompt.step.has_value()) steps[prompt.id] = *prompt.step;
  }
  return steps;
}

// One prompt, one episode, and the other way round.
void CheckEpisodes(const LedgerRows& ledger, Check& check) {
  std::map<std::pair<std::string, int64_t>, int64_t> prompt_of;
  std::map<int64_t, std::pair<std::string, int64_t>> episode_of;
  for (const LedgerRollout& r : ledger.rollouts) {
    const std::pair<std::string, int64_t> episode = {r.episode, r.index};
    const auto [mine, first] = episode_of.emplace(r.prompt, episode);
    if (mine->second != episode) {
      Find(check, "prompt %d: %s is of another episode than the others", r.prompt, Named(r));
    } else if (first) {
      const auto [owner, alone] = prompt_of.emplace(episode, r.prompt);
      if (!alone) {
        Find(check, "prompts %d and %d are the same: number %d of %s", owner->second, r.prompt,
             r.index, r.episode);
      }
    }
  }
}

}  // namespace

Check LedgerFileIsWhole(const LedgerRows& ledger) {
  return {.name = "ledger_file", .looked_at = 1, .findings = ledger.damage};
}

Check PromptsHaveOneState(const LedgerRows& ledger) {
  Check check{.name = "prompts_have_one_state"};
  std::map<int64_t, const LedgerBatch*> batches;
  for (const LedgerBatch& batch : ledger.batches) batches[batch.step] = &batch;
  std::set<int64_t> known;
  for (const LedgerPrompt& p : ledger.prompts) {
    ++check.looked_at;
    known.insert(p.id);
    const bool batched = p.state == LedgerPrompt::kBatched;
    if (!IsKnown(p.state)) Find(check, "prompt %d: state %d is unknown", p.id, p.state);
    if (batched && !p.step) Find(check, "prompt %d is batched, but in no batch", p.id);
    if (!p.step.has_value()) continue;
    const auto batch = batches.find(*p.step);
    if (!batched) {
      Find(check, "prompt %d has two states: %s, and in the batch of step %d", p.id,
           StateName(p.state), *p.step);
    }
    if (batch == batches.end()) {
      Find(check, "prompt %d is in the batch of step %d, which is not there", p.id, *p.step);
    } else if (!batch->second->rl) {
      Find(check, "prompt %d is in %s, which is a supervised one", p.id, Named(*batch->second));
    }
  }
  for (const LedgerRollout& r : ledger.rollouts) {
    if (known.count(r.prompt) == 0) Find(check, "%s: there is no such prompt", Named(r));
  }
  CheckEpisodes(ledger, check);
  return check;
}

Check NoPromptWasSkipped(const LedgerRows& ledger) {
  Check check{.name = "no_prompt_was_skipped"};
  int64_t last_batched = -1;
  for (const LedgerPrompt& p : ledger.prompts) {
    if (p.step.has_value()) last_batched = p.id;
  }
  int64_t next = 0, step = 0;
  for (const LedgerPrompt& p : ledger.prompts) {
    ++check.looked_at;
    if (p.id != next) Find(check, "prompts %d to %d are missing", next, p.id - 1);
    next = p.id + 1;
    const bool unfinished = p.state == LedgerPrompt::kOpen || p.state == LedgerPrompt::kReady;
    if (unfinished && p.id < last_batched) {
      Find(check, "prompt %d is still %s, but prompt %d is in a batch", p.id, StateName(p.state),
           last_batched);
    }
    if (!p.step.has_value()) continue;
    if (*p.step < step) {
      Find(check, "prompt %d is in the batch of step %d, an earlier prompt in that of step %d",
           p.id, *p.step, step);
    }
    step = std::max(step, *p.step);
  }
  return check;
}

Check AcceptedRolloutsAreThere(const LedgerRows& ledger) {
  Check check{.name = "accepted_rollouts_are_there"};
  const auto count = [&](const char* what) {
    const auto found = ledger.counts.find(what);
    return found == ledger.counts.end() ? 0 : found->second;
  };
  const auto there = static_cast<int64_t>(ledger.rollouts.size());
  const int64_t dropped = count("stale") + count("abandoned");
  check.looked_at = there;
  if (count("ok") != there + dropped) {
    Find(check,
         "%d rollouts were accepted, but %d are there and %d were dropped as stale or "
         "abandoned",
         count("ok"), there, dropped);
  }
  const std::map<int64_t, int64_t> steps = StepsOfPrompts(ledger);
  std::map<int64_t, int64_t> samples;  // of each prompt that is in a batch
  for (const auto& [prompt, step] : steps) samples[prompt] = 0;
  for (const LedgerRollout& r : ledger.rollouts) {
    const auto in_batch = samples.find(r.prompt);
    if (in_batch == samples.end()) continue;
    if (r.sample != in_batch->second++) {
      Find(check, "step %d: %s is sample %d, and one before it is missing", steps.at(r.prompt),
           Named(r), r.sample);
    }
    if (r.bytes == 0) Find(check, "step %d: %s has no message", steps.at(r.prompt), Named(r));
  }
  std::map<int64_t, std::pair<int64_t, int64_t>> first;  // of a step: prompt, samples
  for (const auto& [prompt, n] : samples) {
    const auto& [other, expected] =
        first.emplace(steps.at(prompt), std::pair(prompt, n)).first->second;
    if (n != expected) {
      Find(check, "step %d: prompt %d has %d rollouts, prompt %d has %d", steps.at(prompt), prompt,
           n, other, expected);
    }
  }
  return check;
}

Check NoFailureBecameAReward(const LedgerRows& ledger) {
  Check check{.name = "no_failure_became_a_reward"};
  const std::map<int64_t, int64_t> steps = StepsOfPrompts(ledger);
  for (const LedgerRollout& r : ledger.rollouts) {
    ++check.looked_at;
    const auto step = steps.find(r.prompt);
    const std::string where =
        step == steps.end() ? "no batch yet" : absl::StrFormat("step %d", step->second);
    const bool judged = r.outcome == rl::Outcome::kOk || r.outcome == rl::Outcome::kTruncated;
    if (!judged && (r.reward.has_value() || step != steps.end())) {
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
    const auto made = ledger.versions.find(r.min_version);
    if (made == ledger.versions.end()) {
      Find(check, "step %d: %s names version %d, which the ledger does not know", step->second,
           Named(r), r.min_version);
    } else if (made->second.step >= step->second) {
      Find(check, "step %d: %s was made by version %d of step %d, which came later", step->second,
           Named(r), r.min_version, made->second.step);
    }
    if (r.max_version < r.min_version) {
      Find(check, "step %d: %s has versions %d to %d", step->second, Named(r), r.min_version,
           r.max_version);
    }
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
