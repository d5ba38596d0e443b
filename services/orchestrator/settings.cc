#include "services/orchestrator/settings.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "common/config/flags.h"
#include "common/config/node.h"

namespace palimpsest::orchestrator {
namespace {

constexpr std::string_view kBound[] = {"tasks", "stop_strings", "contexts", "sft", "rl", "heldout"};
constexpr std::string_view kFree[] = {"orchestrator.rl.steps", "orchestrator.rl.max_tries",
                                      "orchestrator.rl.max_in_flight", "orchestrator.rl.eval_every",
                                      "orchestrator.heldout.also"};

bool IsFree(const std::string& path) {
  return std::any_of(std::begin(kFree), std::end(kFree), [&](std::string_view free) {
    return path == free || path.starts_with(std::string(free) + "[");
  });
}

}  // namespace

absl::StatusOr<std::map<std::string, std::string>> Settings(
    const OrchestratorDaemonConfig& config) {
  ASSIGN_OR_RETURN(const Node printed, ParseYaml(PrintConfig(config), "the printed configuration"));
  const Node* section = printed.Find("orchestrator");
  if (section == nullptr) return absl::InternalError("no orchestrator section is printed");
  std::map<std::string, std::string> settings;
  for (const std::string_view part : kBound) {
    const Node* node = section->Find(part);
    if (node == nullptr) continue;
    for (const auto& [path, value] : Leaves(*node, "orchestrator." + std::string(part))) {
      if (!IsFree(path)) settings[path] = value;
    }
  }
  return settings;
}

}  // namespace palimpsest::orchestrator
