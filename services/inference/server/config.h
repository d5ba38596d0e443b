#pragma once

#include <cstdint>
#include <string>

#include "absl/time/time.h"
#include "common/config/binder.h"
#include "common/config/run_sections.h"
#include "common/rpc/listen.h"
#include "services/inference/core/engine.h"
#include "services/inference/server/http_section.h"

namespace palimpsest::inference {

// `inference:` of the YAML.
struct InferenceConfig {
  int rank = 0;         // among the replicas of a run
  ListenSection serve;  // its keys stand beside the others
  HttpSection http;
  std::string dtype = "float32";  // float32 or bfloat16
  std::string device = "cpu";     // cpu or cuda
  int threads = 2;                // of the math
  bool batch_invariant = false;   // the same bits whatever else runs; costs time
  Limits limits;
  int max_scores = 8;       // Score calls at once
  int reader_queue = 4096;  // streamed messages that a slow reader may be behind
  absl::Duration remember = absl::Minutes(10);  // finished generations, for a repeated request
  int64_t remember_bytes = 128 << 20;
  absl::Duration store_poll = absl::Seconds(1);
  absl::Duration lease = absl::Minutes(5);
  WeightsMode weights_mode = WeightsMode::kKeep;  // of versions found by polling
  absl::Duration first_version_wait = absl::Minutes(10);
  double canary_limit = 1;  // nats by which canary prompts may be off before readiness is false
  absl::Duration drain_grace = absl::Seconds(20);  // for running sequences at SIGTERM
};
void Bind(Binder& b, InferenceConfig& c);
absl::Status Validate(const InferenceConfig& c, const TlsSection& tls = {});

// What palimpsest-inference reads of the YAML.
struct InferenceDaemonConfig {
  RunSection run;
  TlsSection tls;
  InferenceConfig inference;
};
void Bind(Binder& b, InferenceDaemonConfig& c);
absl::Status Validate(const InferenceDaemonConfig& c);

}  // namespace palimpsest::inference
