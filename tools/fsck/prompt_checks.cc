// Prompts and their states; what their rollouts are stands in rollout_checks.cc.
#include <algorithm>
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
    if (!r.message) Find(check, "step %d: %s has no message", steps.at(r.prompt), Named(r));
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

}  // namespace palimpsest::tools
