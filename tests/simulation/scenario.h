#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "services/orchestrator/core/config.h"

// What a seed decides before anything happens: the run, and what goes wrong in it.
namespace palimpsest::simulation {

enum class Fault : uint8_t {
  // Of the call that is being made:
  kCallLost,    // it never arrives
  kAnswerLost,  // it is carried out, and nobody hears of it
  kCallLate,    // it arrives when the caller has given up
  kRefused,     // RESOURCE_EXHAUSTED
  // Of the peers:
  kTrainerDies,
  kTrainerDiesPublishing,  // in the middle of its next version
  kReplicaDies,
  kEnvDies,
  kSampleLost,
  kSessionLost,
  kUnjudged,  // the environment cannot judge a response
  kRaised,    // the task raises in a step or a judgement
  // Of the orchestrator and its disk:
  kKilled,
  kKilledWriting,
  kPowerCut,
  kWriteFails,
  kWriteTears,
  kDiskFull,
  kSyncFails,
  kDrained,  // SIGTERM
  kPaused,   // by an operator, for a while
};
inline constexpr int kFaults = static_cast<int>(Fault::kPaused) + 1;
std::string Name(Fault fault);

struct PlannedFault {
  int64_t at = 0;  // calls of the run before it
  Fault fault = Fault::kCallLost;
};

// A world that breaks a promise on purpose: whether it is found out.
enum class Plant : uint8_t {
  kNone,
  kTokenWithoutVersion,  // the ledger forgets the spans
  kFailureScored,        // what could not be judged comes back as a reward of 0
  kAcceptedRolloutLost,  // a row goes from the ledger between two attempts
  kDiskLies,             // a sync that is none, and a power cut
  kBatchTrainedTwice,    // the trainer does not know a batch again
  kPromptSkipped,        // a prompt's number is passed over between two attempts
  kOldWeightsDenied,     // a replica says that newer weights have made what old ones did
  kHalfWeightsServed,    // a replica takes folders for versions
  kQueueUnbounded,       // the run works at more groups than it was told
  kNeverServed,          // no replica ever takes new weights
  kStaleTrained,         // the run keeps rollouts for two steps more than it was told
  kReplayOfAnother,      // the trainer tells of another step's replay
  kEventForged,          // the ledger gives an event another digest
  kEventForgotten,       // the ledger loses the last event of a log
};

struct Scenario {
  uint64_t seed = 0;
  Plant plant = Plant::kNone;
  orchestrator::RunPlan plan;
  int replicas = 1;
  int replica_room = 4;              // requests that a replica works at
  int checkpoint_every = 1;          // steps
  std::vector<PlannedFault> faults;  // ascending
};
Scenario Draw(uint64_t seed, Plant plant);

}  // namespace palimpsest::simulation
