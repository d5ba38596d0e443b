#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "common/config/binder.h"

namespace palimpsest {

// `run:` of the YAML: what all daemons of one run share.
struct RunSection {
  std::string name = "run";
  std::string folder = "runs/run";  // addresses, store, checkpoints, ledger, logs, report
  uint64_t seed = 1;
  bool operator==(const RunSection&) const = default;

  // Where the parts of a run stand.
  std::string StoreFolder() const { return folder + "/store"; }
  std::string CheckpointFolder() const { return folder + "/checkpoints"; }
};
void Bind(Binder& b, RunSection& c);
absl::Status Validate(const RunSection& c);

// The Qwen3 model with a byte-level tokenizer that a run starts from when no folder is named; its
// weights are drawn from run.seed. Its vocabulary is the 256 bytes and the special tokens; the
// first special token ends a text.
struct InitModel {
  int32_t layers = 4;
  int32_t hidden = 128;
  int32_t intermediate = 384;
  int32_t heads = 4;
  int32_t kv_heads = 2;   // divides heads
  int32_t head_dim = 32;  // even
  int32_t max_position = 4096;
  double rope_theta = 10000;
  bool tied = false;
  std::vector<std::string> special_tokens = {"<|end|>"};
  bool operator==(const InitModel&) const = default;
};

// `model:` of the YAML.
struct ModelSection {
  std::string folder;  // a Hugging Face folder to start from; empty: made from `init`
  InitModel init;
  bool operator==(const ModelSection&) const = default;
};
void Bind(Binder& b, InitModel& c);
void Bind(Binder& b, ModelSection& c);
absl::Status Validate(const ModelSection& c);

}  // namespace palimpsest
