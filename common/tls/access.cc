#include "common/tls/access.h"

#include <algorithm>
#include <iterator>
#include <string>

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

using enum Role;

constexpr unsigned Set(std::initializer_list<Role> roles) {
  unsigned set = 0;
  for (const Role role : roles) set |= 1u << static_cast<unsigned>(role);
  return set;
}

constexpr unsigned kLoop = Set({kOrchestrator});  // steers a run
constexpr unsigned kRelay = Set({kRouter});       // passes on what it has let in by this table
constexpr unsigned kUse = Set({kOrchestrator, kClient, kOperator});  // a model, an environment
constexpr unsigned kLook = Set({kOrchestrator, kOperator});          // reads a trainer's state
constexpr unsigned kHuman = Set({kOperator});                        // watches and steers the loop
constexpr unsigned kScrape = Set({kMetrics, kOperator});

struct Row {
  std::string_view method;
  unsigned roles;
};

constexpr Row kRows[] = {
    {"/palimpsest.v1.InferenceService/GetServerInfo", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/Generate", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/Score", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/Tokenize", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/Detokenize", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/CreateSession", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/StepSession", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/CompactSession", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/ForkSession", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/ListSessions", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/DeleteSession", kUse | kRelay},
    {"/palimpsest.v1.InferenceService/Pause", kLoop | kRelay},
    {"/palimpsest.v1.InferenceService/Resume", kLoop | kRelay},
    {"/palimpsest.v1.InferenceService/Drain", kLoop | kRelay},
    {"/palimpsest.v1.InferenceService/AbortAll", kLoop | kRelay},
    {"/palimpsest.v1.InferenceService/UpdateWeights", kLoop | kRelay},

    {"/palimpsest.v1.TrainerService/GetServerInfo", kLook},
    {"/palimpsest.v1.TrainerService/GetStatus", kLook},
    {"/palimpsest.v1.TrainerService/TrainBatch", kLoop},
    {"/palimpsest.v1.TrainerService/Publish", kLoop},
    {"/palimpsest.v1.TrainerService/SaveCheckpoint", kLoop},
    {"/palimpsest.v1.TrainerService/Pause", kLoop},
    {"/palimpsest.v1.TrainerService/Resume", kLoop},
    {"/palimpsest.v1.TrainerService/Drain", kLoop},

    {"/palimpsest.v1.EnvironmentService/GetServerInfo", kUse},
    {"/palimpsest.v1.EnvironmentService/ListTasks", kUse},
    {"/palimpsest.v1.EnvironmentService/Reset", kUse},
    {"/palimpsest.v1.EnvironmentService/Step", kUse},
    {"/palimpsest.v1.EnvironmentService/Score", kUse},
    {"/palimpsest.v1.EnvironmentService/Demonstrate", kUse},

    {"/palimpsest.v1.OrchestratorService/GetServerInfo", kHuman},
    {"/palimpsest.v1.OrchestratorService/GetProgress", kHuman},
    {"/palimpsest.v1.OrchestratorService/WatchProgress", kHuman},
    {"/palimpsest.v1.OrchestratorService/ListRollouts", kHuman},
    {"/palimpsest.v1.OrchestratorService/GetRollout", kHuman},
    {"/palimpsest.v1.OrchestratorService/Pause", kHuman},
    {"/palimpsest.v1.OrchestratorService/Resume", kHuman},
    {"/palimpsest.v1.OrchestratorService/Drain", kHuman},

    {"/v1", Set({kClient, kOperator})},
    {"/page", kHuman},
    {"/metrics", kScrape},
    {"/healthz", kScrape},
};

constexpr std::string_view kForEveryRole[] = {
    "/grpc.health.v1.Health/",
    "/grpc.reflection.v1alpha.ServerReflection/",
};

}  // namespace

bool MayCall(Role role, std::string_view method) {
  for (const std::string_view service : kForEveryRole) {
    if (method.starts_with(service)) return true;
  }
  const Row* const row = std::find_if(std::begin(kRows), std::end(kRows),
                                      [&](const Row& r) { return r.method == method; });
  return row != std::end(kRows) && (row->roles & Set({role})) != 0;
}

absl::Status CheckAccess(Role role, std::string_view method) {
  if (MayCall(role, method)) return absl::OkStatus();
  return absl::PermissionDeniedError(
      absl::StrFormat("the role %s may not call %s", RoleName(role), method));
}

std::vector<std::string_view> MethodsWithARow() {
  std::vector<std::string_view> methods;
  for (const Row& row : kRows) methods.push_back(row.method);
  return methods;
}

}  // namespace palimpsest
