#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"
#include "common/compaction/gradient_mode.h"
#include "common/config/run_sections.h"
#include "common/model/decoder.h"
#include "common/rl/objective.h"
#include "common/rl/views.h"
#include "services/trainer/core/schedule.h"
#include "services/trainer/engine/adamw.h"
#include "services/trainer/engine/parameter_shards.h"

namespace palimpsest::trainer {

struct EngineOptions {
  RunSection run;
  ModelSection model;
  model::DType dtype = model::DType::kFloat32;
  model::Activations activations = model::Activations::kKept;
  WeightsHeld weights =
      WeightsHeld::kWhole;  // by each of several ranks; kSharded: kRecomputed alone
  int32_t threads = 2;      // of torch
  int32_t max_tokens_per_micro_batch = 8192;  // rows of one forward pass
  rl::ObjectiveOptions loss;                  // of rollouts
  rl::ViewOptions shadow;                     // which views of them are learnt and compared
  // What loss.reference_kl is measured against, a Hugging Face folder or a version of a store;
  // empty: the model that the run started from. Held, and replayed, only while the coefficient is >
  // 0.
  std::string reference_folder;
  AdamOptions optimizer;
  Schedule schedule;
  compaction::GradientMode gradient = compaction::GradientMode::kDetached;
  bool take_truncated_sampling = false;
  bool take_greedy = false;
  // Steps that were not finite, one after the other, after which no batch is taken; 0: never.
  int32_t max_skipped_in_a_row = 10;
  int32_t keep_checkpoints = 2;  // whole ones; >= 1
  int32_t keep_every = 0;        // of steps that are multiples of it stay for good; 0: none
  int64_t resume = -1;           // the step of the checkpoint to go on from; -1: the newest whole
  int32_t keep_versions = 3;     // >= 2, whatever readers hold
  bool operator==(const EngineOptions&) const = default;
};
absl::Status Validate(const EngineOptions& options);

}  // namespace palimpsest::trainer
