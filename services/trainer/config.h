#pragma once

#include <string>
#include <string_view>

#include "common/config/binder.h"
#include "common/rpc/listen.h"
#include "services/trainer/engine/options.h"

namespace palimpsest::trainer {

// `trainer:` of the YAML.
struct TrainerSection {
  ListenSection serve;            // its keys stand beside the others
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

// trainer.engine with the shared sections.
EngineOptions EngineOptionsOf(const DaemonConfig& c);

}  // namespace palimpsest::trainer
