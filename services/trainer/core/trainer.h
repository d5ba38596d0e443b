#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "common/base/status.h"
#include "common/base/strong_int.h"
#include "common/rl/replayed.h"
#include "services/trainer/core/batch.h"

namespace palimpsest::trainer {

struct TrainerInfo {
  std::string run;
  int32_t ranks = 1;  // processes that train together
  int32_t max_tokens_per_micro_batch = 0;
  int32_t max_tokens_per_sequence = 0;
  int32_t layers = 0, kv_heads = 0, vocab = 0;
};

// A version of the weights that stands whole in the store.
struct PublishedVersion {
  PolicyVersion version;
  std::optional<PolicyVersion> parent;
  int64_t source_step = 0;
  std::string run;
  int64_t attempt = 0;
  bool operator==(const PublishedVersion&) const = default;
};

enum class Phase { kIdle, kReplay, kOptimizer, kPublish, kCheckpoint };

struct TrainOutcome {
  StepResult result;
  bool already_trained = false;  // the recorded result of an earlier call
  // Of the rollouts that were learnt, in the order of the batch. Nothing per token is recorded: of
  // an earlier call they are there while the process lives and no step has followed.
  std::vector<rl::Replayed> replayed = {};
};

// What the server asks of an engine. One thread calls it, except where a function says otherwise.
class Trainer {
 public:
  virtual ~Trainer() = default;

  virtual const TrainerInfo& info() const = 0;  // any thread
  virtual Phase phase() const = 0;              // any thread

  virtual int64_t step() const = 0;  // optimiser steps in the weights
  // Covered by a checkpoint; by one if what is being written succeeds; writes that failed so far.
  virtual int64_t durable_step() const = 0;   // any thread
  virtual int64_t saving_step() const = 0;    // any thread
  virtual int64_t save_failures() const = 0;  // any thread
  virtual std::string last_batch_id() const = 0;
  virtual absl::StatusOr<std::vector<PublishedVersion>> Published() const = 0;  // ascending

  // FAILED_PRECONDITION when so many steps in a row were not finite, or dense and shadow view were
  // so far apart, that no batch is taken.
  virtual absl::Status Sound() const = 0;

  // One optimiser step, or the recorded result of (step, batch id). FAILED_PRECONDITION for a gap
  // in the steps, another batch at a trained step, or an engine that is not sound; whatever fails,
  // the weights are as before.
  virtual absl::StatusOr<TrainOutcome> Train(const Batch& batch) = 0;
  // The weights of step() as a version; the same step again is the same version.
  virtual absl::StatusOr<PublishedVersion> Publish() = 0;
  // Returns when step() is copied; it becomes durable beside what follows, or the log says why not.
  // Waits for the write before.
  virtual absl::Status BeginSave() = 0;
  // Makes step() durable; looks whether it still is.
  virtual absl::Status Save() = 0;
};

}  // namespace palimpsest::trainer
