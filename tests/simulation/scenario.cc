#include "tests/simulation/scenario.h"

#include <algorithm>

#include "common/base/random.h"
#include "tests/simulation/told.h"

namespace palimpsest::simulation {
namespace {

constexpr int64_t kMaxFaults = 14;
constexpr int64_t kCalls = 260;  // an undisturbed run makes about so many

orchestrator::RunPlan DrawPlan(RandomStream& random) {
  orchestrator::RunPlan plan;
  const int64_t tasks = random.Below(3);
  plan.tasks = {tasks == 0 ? kTalk : "plain"};
  if (tasks == 1) plan.tasks.push_back(kTalk);
  plan.stop_strings = {"$"};
  plan.sft = {{.name = "sft", .max_steps = random.Between(1, 2), .batch = 2}};
  if (random.Below(3) == 0) {
    plan.sft[0].gate =
        orchestrator::GateConfig{.context = "none", .greedy_reward = 0.9, .every = 1, .prompts = 2};
  }
  plan.rl.steps = random.Between(3, 5);
  plan.rl.prompts_per_batch = static_cast<int32_t>(random.Between(1, 3));
  plan.rl.samples = static_cast<int32_t>(random.Between(2, 3));
  plan.rl.max_in_flight = static_cast<int32_t>(random.Between(1, 5));
  plan.rl.max_staleness = static_cast<int32_t>(random.Below(3));
  plan.rl.eval_every = random.Below(3) == 0 ? 2 : 0;
  plan.rl.max_tries = random.Below(4) == 0 ? 3 : 20;
  switch (random.Below(4)) {
    case 0:
      plan.rl.max_redraws = 2;
      break;
    case 1:
      plan.rl.filter = {.all_solved = true, .none_solved = true, .max_in_a_row = 2};
      break;
    case 2:
      plan.rl.task_weights.by_pass_rate = true;
      break;
  }
  plan.heldout = {.prompts = static_cast<int32_t>(random.Between(2, 3)), .also = {}};
  if (random.Below(3) == 0) plan.heldout.also = {"none"};
  plan.peers.train_deadline = absl::Seconds(30);
  plan.peers.generate_deadline = absl::Seconds(30);
  return plan;
}

// Under which rollouts are made. Draws of its own: what else a seed decides does not hang on it.
void DrawContext(uint64_t seed, orchestrator::RunPlan& plan) {
  RandomStream random(MixSeed({seed, Meaning("context")}));
  const auto ratio = 0.2 + 0.1 * static_cast<double>(random.Below(4));
  context::ContextPolicy policy;
  if (random.Below(2) == 0) {
    policy.trigger = context::KvBudget{.budget = static_cast<int32_t>(random.Between(20, 24)),
                                       .window = static_cast<int32_t>(random.Between(3, 5)),
                                       .keep_ratio = ratio};
  } else {
    policy.trigger = context::Segments{.every = static_cast<int32_t>(random.Between(4, 6)),
                                       .window = static_cast<int32_t>(random.Between(3, 4)),
                                       .keep_ratio = ratio};
  }
  policy.method = static_cast<context::Method>(random.Between(1, 3));
  policy.parameters.chooser = context::DefaultChooser(policy.method);
  policy.reference_tokens = 4;
  policy.stack = random.Below(3) == 0;
  plan.contexts["compacted"] = policy;
  if (random.Below(4) > 0) plan.rl.context = "compacted";
}

// What a plant needs to show itself, besides luck.
void Prepare(Scenario& scenario) {
  const auto plan = [&](int64_t at, Fault fault) { scenario.faults.push_back({at, fault}); };
  switch (scenario.plant) {
    case Plant::kFailureScored:
      for (int64_t at = 20; at < 120; at += 20) plan(at, Fault::kUnjudged);
      break;
    case Plant::kAcceptedRolloutLost:
    case Plant::kPromptSkipped:
      for (int64_t at = 50; at < 120; at += 20) plan(at, Fault::kKilled);
      break;
    case Plant::kDiskLies:
      for (int64_t at = 50; at < 120; at += 20) plan(at, Fault::kPowerCut);
      break;
    case Plant::kEventForged:
    case Plant::kEventForgotten:
      scenario.plan.rl.context = "compacted";
      break;
    case Plant::kBatchTrainedTwice:
      for (int64_t at = 10; at < 120; at += 4) plan(at, Fault::kAnswerLost);
      break;
    case Plant::kHalfWeightsServed:
      for (int64_t at = 30; at < 120; at += 20) plan(at, Fault::kTrainerDiesPublishing);
      break;
    default:
      break;
  }
}

}  // namespace

std::string Name(Fault fault) {
  static constexpr const char* kNames[kFaults] = {
      "call lost",    "answer lost",    "call late",
      "refused",      "trainer dies",   "trainer dies publishing",
      "replica dies", "env dies",       "sample lost",
      "session lost", "unjudged",       "raised",
      "killed",       "killed writing", "power cut",
      "write fails",  "write tears",    "disk full",
      "sync fails",   "drained",        "paused"};
  return kNames[static_cast<int>(fault)];
}

Scenario Draw(uint64_t seed, Plant plant) {
  RandomStream random(MixSeed({seed, Meaning("scenario")}));
  Scenario scenario{.seed = seed, .plant = plant, .plan = DrawPlan(random)};
  scenario.replicas = static_cast<int>(random.Between(1, 3));
  scenario.replica_room = static_cast<int>(random.Between(2, 8));
  scenario.checkpoint_every = static_cast<int>(random.Between(1, 3));
  scenario.plan.peers.inference = scenario.replicas;
  for (int64_t left = random.Below(kMaxFaults + 1); left > 0; --left) {
    scenario.faults.push_back({random.Below(kCalls), static_cast<Fault>(random.Below(kFaults))});
  }
  DrawContext(seed, scenario.plan);
  Prepare(scenario);
  std::stable_sort(scenario.faults.begin(), scenario.faults.end(),
                   [](const auto& a, const auto& b) { return a.at < b.at; });
  return scenario;
}

}  // namespace palimpsest::simulation
