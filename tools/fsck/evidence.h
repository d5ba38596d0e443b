#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "common/rl/batch_chain.h"
#include "common/rl/rollout.h"
#include "common/weights/manifest.h"

// What a run has left on disk, as plain rows: all that the checks see.
namespace palimpsest::tools {

struct LedgerBatch {
  int64_t step = 0;  // of the trainer, that it becomes
  std::string id;
  std::string stage;
  bool rl = false;
  int64_t stage_step = 0;  // within its stage, from 0
  bool trained = false;
};

struct LedgerStage {
  std::string name;
  int64_t first_step = 0;            // the trainer's step before it
  std::optional<int64_t> last_step;  // once it is over
};

// A prompt of the train split and the group of its rollouts: both have this number.
struct LedgerPrompt {
  enum State : int64_t { kOpen = 1, kReady = 2, kBatched = 3, kDropped = 4 };
  int64_t id = 0;
  int64_t state = kOpen;  // as it stands there, known or not
  std::optional<int64_t> step;
};

// What the message of a rollout says of itself.
struct LedgerMessage {
  std::string damage;  // why it cannot be read; empty: it can, and its context log holds
  std::string id;
  int64_t sample = 0;
  int64_t prompt_tokens = 0;
  int64_t total_tokens = 0;
  int64_t events = 0;
  int64_t min_version = 0;
  int64_t max_version = 0;
  int64_t sampled_tokens = 0;
  int64_t sampled_runs = 0;  // of tokens
  bool ends_sampled = false;
};

struct LedgerRollout {
  std::string id;
  int64_t prompt = 0;
  int64_t sample = 0;
  std::string episode;  // task, split and seed
  int64_t index = 0;    // of the episode
  rl::Outcome outcome = rl::Outcome::kOk;
  std::optional<double> reward;
  std::optional<double> advantage;
  int64_t prompt_tokens = 0;
  int64_t total_tokens = 0;
  int64_t events = 0;
  int64_t min_version = 0;
  int64_t max_version = 0;
  std::optional<LedgerMessage> message;  // missing: there are no bytes
};

// What there is of a sample that a stop cut off.
struct LedgerCut {
  int64_t prompt = 0;
  int64_t sample = 0;
  LedgerMessage message;
};

struct LedgerVersion {
  int64_t version = 0;
  std::optional<int64_t> parent;
  int64_t step = 0;
};

struct LedgerRows {
  std::string run;
  std::map<std::string, std::string> settings;  // that its numbers depend on, as YAML; or none
  std::vector<std::string> damage;              // what SQLite says of its own file
  std::vector<LedgerStage> stages;              // by first_step
  std::vector<LedgerBatch> batches;             // ascending by step
  std::map<int64_t, int64_t> recorded;          // step that was trained -> its largest staleness
  std::map<int64_t, double> rewards;            // step that was trained on rollouts -> their mean
  std::vector<LedgerPrompt> prompts;            // ascending
  std::vector<LedgerRollout> rollouts;          // ascending by prompt and sample
  std::vector<LedgerCut> cuts;                  // ascending by prompt and sample
  // Of several turns: prompt and sample of what was cut -> its whole responses.
  std::map<std::pair<int64_t, int64_t>, int64_t> cut_episodes;
  std::map<int64_t, LedgerVersion> versions;  // abandoned ones too
  std::map<std::string, int64_t> counts;      // how often something happened to rollouts
};

// A version of the weights store.
struct StoredVersion {
  std::string folder;  // v00000042
  std::string damage;  // empty: every byte is what was published
  weights::Manifest manifest;
};

struct StoredCheckpoint {
  std::string folder;  // step-00000012
  std::string damage;
  int64_t step = 0;
  std::vector<std::pair<int64_t, std::string>> batches;  // the latest (step, batch id), ascending
  std::optional<rl::BatchChain> chain;                   // of all; older checkpoints have none
};

struct Evidence {
  std::vector<StoredVersion> versions;
  std::vector<StoredCheckpoint> checkpoints;
  int64_t set_aside = -1;  // the newest step whose checkpoint the trainer has set aside; -1: none
  LedgerRows ledger;
};

}  // namespace palimpsest::tools
