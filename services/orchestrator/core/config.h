#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/base/status.h"
#include "common/context/policy.h"
#include "common/rl/advantages.h"
#include "services/orchestrator/core/curriculum.h"

// What the orchestrator is told about a run. Values with defaults; the names in YAML stand in
// services/orchestrator/daemon_config.cc.
namespace palimpsest::orchestrator {

// Over the steps of a stage: in a line, or half a wave that is flat at both ends.
enum class RateShape : uint8_t { kLinear, kCosine };
struct LearningRate {
  double begin = 4e-4;  // > 0
  double end = 4e-4;    // > 0
  RateShape shape = RateShape::kLinear;
  bool operator==(const LearningRate&) const = default;
};

// A stage ends early when greedy decoding is good enough.
struct GateConfig {
  std::string context;         // the policy under which it is measured
  double greedy_reward = 0.9;  // mean over the prompts, (0, 1]
  int64_t every = 50;          // steps between two measurements, > 0
  int32_t prompts = 64;        // of the sft split, > 0
  bool operator==(const GateConfig&) const = default;
};

struct SftConfig {
  std::string name;
  int64_t max_steps = 200;  // > 0
  int32_t batch = 32;       // demonstrations of a step, > 0
  LearningRate learning_rate{3e-3, 3e-3};
  int32_t warmup = 0;                            // first steps, whose rate rises linearly
  double answer_noise = 0;                       // [0, 1]
  std::vector<std::string> contexts = {"none"};  // names of policies; step s uses s mod size
  double stop_loss =
      0;  // ends when the mean loss of the last `loss_window` steps is below; 0 = off
  int32_t loss_window = 5;  // > 0
  std::optional<GateConfig> gate;
  bool operator==(const SftConfig&) const = default;
};

struct RlConfig {
  int64_t steps = 40;              // >= 0
  int32_t prompts_per_batch = 16;  // groups, > 0
  int32_t samples = 8;             // of a group, >= 2
  LearningRate learning_rate{4e-4, 4e-4};
  int32_t warmup = 5;
  double temperature = 1;    // > 0
  int32_t max_tokens = 256;  // sampled tokens of a rollout, where the environment names no bound
  std::string context = "none";  // name of the policy that rollouts are made under
  int32_t max_staleness = 0;     // versions between sampling and training; 0 = strictly on-policy
  rl::AdvantageOptions advantage;
  rl::OverlongOptions overlong;  // of rewards, before advantages are taken
  // Groups whose rewards are all equal teach nothing: so many of them may a batch replace by the
  // next prompts (DAPO's dynamic sampling). 0 = none.
  int32_t max_redraws = 0;
  int64_t eval_every = 0;      // steps between two held-out measurements; 0 = only first and last
  int32_t max_in_flight = 16;  // groups generated at once, > 0
  double solved = 1;           // reward from which a rollout counts as solved, for the two below
  TaskWeights task_weights;    // which tasks the prompts are of
  GroupFilter filter;          // groups that are left out; not together with max_redraws
  int32_t max_tries = 5;       // requests for one sample, and judgements of one response, > 0
  bool operator==(const RlConfig&) const = default;
};

struct HeldoutConfig {
  int32_t prompts = 200;          // > 0
  std::vector<std::string> also;  // policies that the trained model is measured under besides
  bool operator==(const HeldoutConfig&) const = default;
};

struct PeersConfig {
  int32_t inference = 1;                          // replicas, > 0
  int32_t env = 1;                                // replicas, > 0
  absl::Duration patience = absl::Minutes(15);    // without a peer the run fails after this
  absl::Duration poll = absl::Milliseconds(200);  // first wait of a retry
  absl::Duration max_poll = absl::Seconds(5);
  absl::Duration call_deadline = absl::Seconds(30);      // of calls that should not take long
  absl::Duration env_deadline = absl::Minutes(3);        // of calls that environments answer
  absl::Duration train_deadline = absl::Minutes(10);     // of one batch
  absl::Duration generate_deadline = absl::Minutes(10);  // of one group
  bool operator==(const PeersConfig&) const = default;
};

struct RunPlan {
  std::vector<std::string> tasks = {"registers"};  // prompt i is of task i mod size
  std::vector<std::string> stop_strings;           // end a response, besides what its task names
  std::map<std::string, context::ContextPolicy> contexts;  // "none" is always there
  std::vector<SftConfig> sft;
  RlConfig rl;
  HeldoutConfig heldout;
  PeersConfig peers;
  bool operator==(const RunPlan&) const = default;
};

// INVALID_ARGUMENT naming field and value.
absl::Status Validate(const RunPlan& plan);

// The policy of that name; "none" never compacts. NOT_FOUND names those that there are.
absl::StatusOr<context::ContextPolicy> FindContext(const RunPlan& plan, const std::string& name);

}  // namespace palimpsest::orchestrator
