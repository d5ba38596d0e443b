#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "tools/fsck/evidence.h"

// What must hold of a run at every moment of its life, alive or killed. Pure: rows in, findings
// out. A finding names the step and batch, the prompt, the rollout or the version.
namespace palimpsest::tools {

struct Check {
  std::string name;
  int64_t looked_at = 0;  // rows or files that were judged
  std::vector<std::string> findings;
  std::vector<std::string> notes;  // how far the proof goes
  bool ok() const { return findings.empty(); }
};

// SQLite's own look at the file.
Check LedgerFileIsWhole(const LedgerRows& ledger);

// Open, ready, batched and dropped exclude each other, a batched prompt is in a batch of RL, and no
// episode belongs to two prompts.
Check PromptsHaveOneState(const LedgerRows& ledger);

// Numbers have no gaps, nothing unfinished stands before a prompt that is in a batch, and batches
// take prompts in order.
Check NoPromptWasSkipped(const LedgerRows& ledger);

// Nothing that was accepted is lost: counts, whole groups, messages of those in batches.
Check AcceptedRolloutsAreThere(const LedgerRows& ledger);

// Steps have no gaps, each stage counts through, ids are of stage and number, and no batch is
// trained before an earlier one.
Check BatchesAreInOrder(const LedgerRows& ledger);

// Each checkpoint is whole and contains the ledger's batches, each once and in order: the latest by
// their ids, all by the digest of them. Once a batch is trained there is a checkpoint, or a version
// at least, and behind the last step its checkpoint.
Check WeightsContainEachBatchOnce(const Evidence& evidence);

// Each version is whole, of this run, and of the step that the ledger has for it.
Check VersionsAreOfTheirSteps(const Evidence& evidence);

// Only what was judged has a reward, and everything that is learnt from has one.
Check NoFailureBecameAReward(const LedgerRows& ledger);

// The reward of a trained step is the mean of its rollouts, and the advantages of each group are
// those which the orchestrator takes of its rewards, by the settings that the ledger holds. Without
// them, or without the messages where lengths count, they balance at least.
Check AdvantagesAreOfTheirRewards(const LedgerRows& ledger);

// Every trained rollout names versions that the ledger knows, older than the step that it became.
Check RolloutsNameTheirVersions(const LedgerRows& ledger);

// Each message is a rollout whose context log holds, and says what the ledger's columns say.
Check MessagesSayWhatTheLedgerSays(const LedgerRows& ledger);

// What a stop left of a sample is whole, and its prompt still waits for it.
Check CutSamplesCanGoOn(const LedgerRows& ledger);

// No trained rollout is more than `bound` steps older than the weights that it changed.
Check StalenessIsBounded(const LedgerRows& ledger, int64_t bound);

// All of them, in this order; staleness where a bound is given.
std::vector<Check> CheckAll(const Evidence& evidence, std::optional<int64_t> max_staleness);

}  // namespace palimpsest::tools
