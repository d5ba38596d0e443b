#pragma once

#include <string>
#include <string_view>

#include "common/collective/join.h"
#include "common/config/binder.h"
#include "common/rpc/listen.h"
#include "services/trainer/engine/options.h"

namespace palimpsest::trainer {

// `trainer:` of the YAML.
struct TrainerSection {
  ListenSection serve;  // its keys stand beside the others; of rank 0
  int32_t rank = 0;     // of this process
  int32_t ranks = 1;    // that train together
  absl::Duration collective_timeout = absl::Minutes(10);  // of one wait for another rank
  int32_t checkpoint_every = 10;  // steps; 0 = only when asked and at the end
  int32_t max_queued = 16;        // calls that wait for the worker
  EngineOptions engine;           // without `run` and `model`
};
void Bind(Binder& b, TrainerSection& c);

// What palimpsest-trainer reads of the YAML.
struct DaemonConfig {
  RunSection run;
  TlsSection tls;
  ModelSection model;
  TrainerSection trainer;
};
void Bind(Binder& b, DaemonConfig& c);
absl::Status Validate(const DaemonConfig& c);

// How this rank joins the others; the folder is the run's. `give_up` is not set.
absl::StatusOr<JoinOptions> JoinOptionsOf(const DaemonConfig& c);

// trainer.engine with the shared sections.
EngineOptions EngineOptionsOf(const DaemonConfig& c);

}  // namespace palimpsest::trainer
