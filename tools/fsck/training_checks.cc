// Batches, checkpoints and versions; prompts and rollouts stand in prompt_checks.cc.
#include <algorithm>
#include <set>

#include "tools/fsck/finding.h"

namespace palimpsest::tools {
namespace {

int64_t LastStep(const LedgerRows& ledger) {
  return ledger.batches.empty() ? 0 : ledger.batches.back().step;
}

void CheckStage(const LedgerStage& stage, const LedgerRows& ledger, Check& check) {
  int64_t next = 0;
  for (const LedgerBatch& batch : ledger.batches) {
    if (batch.stage != stage.name) continue;
    if (batch.stage_step != next) {
      Find(check, "%s is number %d of stage %s, expected is %d", Named(batch), batch.stage_step,
           stage.name, next);
    }
    next = batch.stage_step + 1;
    if (stage.last_step.has_value() && batch.step > *stage.last_step) {
      Find(check, "%s comes after the end of stage %s at step %d", Named(batch), stage.name,
           *stage.last_step);
    }
  }
  if (stage.last_step.has_value() && next != *stage.last_step - stage.first_step) {
    Find(check, "stage %s goes from step %d to %d with %d batches", stage.name,
         stage.first_step + 1, *stage.last_step, next);
  }
}

void CheckTrained(const LedgerRows& ledger, Check& check) {
  const LedgerBatch* untrained = nullptr;
  for (const LedgerBatch& batch : ledger.batches) {
    if (!batch.trained) untrained = untrained == nullptr ? &batch : untrained;
    if (batch.trained && untrained != nullptr) {
      Find(check, "%s is trained, but %s before it is not", Named(batch), Named(*untrained));
    }
    if (batch.trained != (ledger.recorded.count(batch.step) > 0)) {
      Find(check, "%s: trained, and what the step was like, do not agree", Named(batch));
    }
  }
  for (const auto& [step, staleness] : ledger.recorded) {
    if (step > LastStep(ledger)) Find(check, "step %d was trained without a batch", step);
  }
}

void CheckCheckpoint(const StoredCheckpoint& checkpoint, const LedgerRows& ledger, Check& check) {
  const std::string& name = checkpoint.folder;
  if (!checkpoint.damage.empty()) {
    Find(check, "checkpoint %s is broken: %s", name, checkpoint.damage);
    return;
  }
  std::map<int64_t, std::string> ids;
  for (const LedgerBatch& batch : ledger.batches) ids[batch.step] = batch.id;
  std::map<std::string, int64_t> seen;
  int64_t next = checkpoint.step - static_cast<int64_t>(checkpoint.batches.size()) + 1;
  for (const auto& [step, id] : checkpoint.batches) {
    if (step != next)
      Find(check, "checkpoint %s: step %d stands where %d belongs", name, step, next);
    next = step + 1;
    const auto [other, once] = seen.emplace(id, step);
    if (!once) {
      Find(check, "checkpoint %s: batch %s is in the weights twice, as steps %d and %d", name, id,
           other->second, step);
    }
    const auto expected = ids.find(step);
    if (expected == ids.end()) {
      Find(check, "checkpoint %s: step %d (batch %s) has no batch in the ledger", name, step, id);
    } else if (expected->second != id) {
      Find(check, "checkpoint %s: step %d is batch %s, the ledger says %s", name, step, id,
           expected->second);
    }
  }
  if (checkpoint.step > 0 && checkpoint.batches.empty()) {
    Find(check, "checkpoint %s: step %d without its batches", name, checkpoint.step);
  }
}

// The ids that a checkpoint has forgotten are in its digest. Gaps of the ledger are found
// elsewhere.
void CheckChain(const StoredCheckpoint& checkpoint, const LedgerRows& ledger, Check& check) {
  if (!checkpoint.damage.empty() || !checkpoint.chain.has_value()) return;
  rl::BatchChain chain{.first = checkpoint.chain->first};
  int64_t next = chain.first;
  for (const LedgerBatch& batch : ledger.batches) {
    if (batch.step < next || batch.step > checkpoint.step) continue;
    if (batch.step != next) return;
    chain.Add(batch.step, batch.id);
    ++next;
  }
  if (next != checkpoint.step + 1 || chain == *checkpoint.chain) return;
  Find(check,
       "checkpoint %s: the ledger's batches of steps %d to %d are not those in its weights (their "
       "digest is %s, the ledger's %s)",
       checkpoint.folder, chain.first, checkpoint.step, checkpoint.chain->digest.Hex(),
       chain.digest.Hex());
}

// The orchestrator has the trainer save its last step before it begins this stage. Before that a
// run may have none: the trainer may be told to save only then.
constexpr char kAfterLastSave[] = "heldout.last";

void CheckThereAreWeights(const Evidence& evidence, int64_t trained, Check& check) {
  const std::vector<StoredCheckpoint>& checkpoints = evidence.checkpoints;
  if (trained == 0) return;
  if (checkpoints.empty() && evidence.versions.empty()) {
    Find(check,
         "%d batches are trained, and nothing to prove it from: checkpoints and store are missing "
         "or empty",
         trained);
    return;
  }
  const std::vector<LedgerStage>& stages = evidence.ledger.stages;
  const auto last = std::find_if(stages.begin(), stages.end(), [](const LedgerStage& stage) {
    return stage.name == kAfterLastSave;
  });
  if (last == stages.end()) {
    if (!checkpoints.empty()) return;
    check.notes.push_back(absl::StrFormat(
        "%d batches are trained and in no checkpoint: a trainer that starts now begins at step 0",
        trained));
    return;
  }
  // A broken one may be it, and is told.
  const bool there =
      std::any_of(checkpoints.begin(), checkpoints.end(), [&](const StoredCheckpoint& checkpoint) {
        return !checkpoint.damage.empty() || checkpoint.step >= last->first_step;
      });
  if (there) return;
  if (evidence.set_aside >= last->first_step) {
    check.notes.push_back(absl::StrFormat(
        "the checkpoint of step %d is set aside: the trainer has gone on from an older one, and "
        "learns the batches since then again",
        evidence.set_aside));
    return;
  }
  Find(check,
       "the run is trained to its end, which was saved, but no checkpoint of step %d is there (of "
       "%d checkpoints)",
       last->first_step, checkpoints.size());
}

// How far back the weights themselves testify.
void TellReach(const Evidence& evidence, int64_t last_trained, Check& check) {
  const StoredCheckpoint* newest = nullptr;
  for (const StoredCheckpoint& checkpoint : evidence.checkpoints) {
    const bool tells = checkpoint.damage.empty() && checkpoint.step > 0;
    if (tells && (newest == nullptr || checkpoint.step > newest->step)) newest = &checkpoint;
  }
  if (newest == nullptr) return;
  const int64_t first = newest->chain.has_value()
                            ? newest->chain->first
                            : newest->step + 1 - static_cast<int64_t>(newest->batches.size());
  std::string note = absl::StrFormat("the weights of %s testify to the batches of steps %d to %d",
                                     newest->folder, first, newest->step);
  if (first > 1) {
    absl::StrAppendFormat(&note, "; of earlier ones, trained before there was a digest of all, ");
    absl::StrAppendFormat(&note, "the ledger alone tells");
  }
  if (last_trained > newest->step) {
    absl::StrAppendFormat(&note, "; steps %d to %d are in no checkpoint yet", newest->step + 1,
                          last_trained);
  }
  check.notes.push_back(std::move(note));
}

void CheckVersion(const StoredVersion& stored, const LedgerRows& ledger, Check& check) {
  const weights::Manifest& manifest = stored.manifest;
  if (!stored.damage.empty()) {
    Find(check, "version %s is broken: %s", stored.folder, stored.damage);
    return;
  }
  const int64_t version = manifest.version.value();
  if (weights::FolderName(manifest.version) != stored.folder) {
    Find(check, "version %s: its manifest says version %d", stored.folder, version);
  }
  if (manifest.run != ledger.run) {
    Find(check, "version %d is of the run %s, the ledger of %s", version, manifest.run, ledger.run);
  }
  if (manifest.source_step > LastStep(ledger)) {
    Find(check, "version %d is of step %d, the ledger's last batch is %d", version,
         manifest.source_step, LastStep(ledger));
  }
  // What a trainer published just before it died may never come to the ledger.
  const auto known = ledger.versions.find(version);
  if (known == ledger.versions.end()) return;
  if (known->second.step != manifest.source_step) {
    Find(check, "version %d: its manifest says step %d, the ledger step %d", version,
         manifest.source_step, known->second.step);
  }
}

}  // namespace

Check BatchesAreInOrder(const LedgerRows& ledger) {
  Check check{.name = "batches_are_in_order"};
  std::set<int64_t> with_prompts;
  for (const LedgerPrompt& prompt : ledger.prompts) {
    if (prompt.step.has_value()) with_prompts.insert(*prompt.step);
  }
  std::set<std::string> stages;
  for (const LedgerStage& stage : ledger.stages) {
    stages.insert(stage.name);
    CheckStage(stage, ledger, check);
  }
  int64_t next = 1;
  for (const LedgerBatch& batch : ledger.batches) {
    ++check.looked_at;
    if (batch.step != next)
      Find(check, "the batches of steps %d to %d are missing", next, batch.step - 1);
    next = batch.step + 1;
    if (stages.count(batch.stage) == 0) {
      Find(check, "%s is of stage %s, which never began", Named(batch), batch.stage);
    }
    const std::string id = absl::StrFormat("%s.%d", batch.stage, batch.stage_step);
    if (batch.id != id) {
      Find(check, "step %d is batch %s, number %d of stage %s is %s", batch.step, batch.id,
           batch.stage_step, batch.stage, id);
    }
    if (batch.rl && with_prompts.count(batch.step) == 0) {
      Find(check, "%s has no prompts", Named(batch));
    }
  }
  CheckTrained(ledger, check);
  return check;
}

Check WeightsContainEachBatchOnce(const Evidence& evidence) {
  Check check{.name = "weights_contain_each_batch_once"};
  for (const StoredCheckpoint& checkpoint : evidence.checkpoints) {
    ++check.looked_at;
    CheckCheckpoint(checkpoint, evidence.ledger, check);
    CheckChain(checkpoint, evidence.ledger, check);
  }
  const std::vector<LedgerBatch>& batches = evidence.ledger.batches;
  const auto trained = std::count_if(batches.begin(), batches.end(),
                                     [](const LedgerBatch& batch) { return batch.trained; });
  CheckThereAreWeights(evidence, trained, check);
  TellReach(evidence, trained, check);
  return check;
}

Check VersionsAreOfTheirSteps(const Evidence& evidence) {
  Check check{.name = "versions_are_of_their_steps"};
  for (const auto& [number, version] : evidence.ledger.versions) {
    ++check.looked_at;
    if (version.step < 0 || version.step > LastStep(evidence.ledger)) {
      Find(check, "version %d is of step %d, the ledger's last batch is %d", number, version.step,
           LastStep(evidence.ledger));
    }
    if (version.parent.has_value() && *version.parent >= number) {
      Find(check, "version %d has the parent %d", number, *version.parent);
    }
  }
  for (const StoredVersion& stored : evidence.versions) {
    ++check.looked_at;
    CheckVersion(stored, evidence.ledger, check);
  }
  return check;
}

std::vector<Check> CheckAll(const Evidence& evidence, std::optional<int64_t> max_staleness) {
  const LedgerRows& ledger = evidence.ledger;
  std::vector<Check> checks = {LedgerFileIsWhole(ledger),
                               PromptsHaveOneState(ledger),
                               NoPromptWasSkipped(ledger),
                               AcceptedRolloutsAreThere(ledger),
                               BatchesAreInOrder(ledger),
                               WeightsContainEachBatchOnce(evidence),
                               VersionsAreOfTheirSteps(evidence),
                               NoFailureBecameAReward(ledger),
                               AdvantagesAreOfTheirRewards(ledger),
                               RolloutsNameTheirVersions(ledger),
                               MessagesSayWhatTheLedgerSays(ledger),
                               CutSamplesCanGoOn(ledger)};
  if (max_staleness.has_value()) checks.push_back(StalenessIsBounded(ledger, *max_staleness));
  return checks;
}

}  // namespace palimpsest::tools
