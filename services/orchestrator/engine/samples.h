#pragma once

#include <string>
#include <vector>

#include "services/orchestrator/engine/cut_samples.h"
#include "services/orchestrator/engine/workplace.h"

namespace palimpsest::orchestrator {

// Which samples of one prompt are wanted.
struct SampleOrder {
  std::string id;  // rollouts are named <id>.<sample>.<try>; requests likewise
  int64_t group = 0;
  Episode episode;
  int32_t samples = 1;        // numbered from 0
  std::vector<int32_t> have;  // those that are there already, ascending
  uint64_t seed = 0;
  double temperature = 1;  // 0 = greedy
  int32_t max_tokens = 0;  // where the environment names no bound
  context::ContextPolicy context;
  PolicyVersion min_version;
  int32_t tries = 0;  // made for this order before, in other attempts too
  int32_t max_tries = 1;
  CutSamples cut = {};  // go on where an earlier order had to leave them
};

struct Made {
  std::vector<RolloutRow> rollouts;  // judged, ascending by sample
  bool needs_memory = false;
  int32_t tries = 0;      // requests made now
  std::string failure;    // why samples are missing; empty when none is
  int64_t continued = 0;  // of the rollouts: behind a cut
  bool stopped = false;   // the run was asked to stop before all were there
  CutSamples cut;         // then: what there is of the others
};

// Generates what is missing, or plays it turn by turn, and has it judged. A sample that a daemon
// failed is asked for again under its number; a response that the environment cannot judge is
// judged again, as a prompt that it raises in is asked for again; all up to max_tries. What was
// lost is counted by outcome. A sample that was cut, with a replica or a run that stops, goes on
// from its log; one of several turns behind its last whole response, also where its replica was
// lost. An error status means that no try can help.
absl::StatusOr<Made> MakeSamples(const Workplace& place, const SampleOrder& order);

}  // namespace palimpsest::orchestrator
