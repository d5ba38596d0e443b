#include "services/orchestrator/settings.h"

#include <algorithm>
#include <iterator>
#include <string_view>

#include "absl/strings/str_format.h"
#include "common/config/flags.h"
#include "common/config/node.h"

namespace palimpsest::orchestrator {
namespace {

constexpr std::string_view kBound[] = {"tasks", "stop_strings", "contexts", "sft", "rl", "heldout"};
constexpr std::string_view kFree[] = {"orchestrator.rl.steps", "orchestrator.rl.max_tries",
                                      "orchestrator.rl.max_in_flight", "orchestrator.rl.eval_every",
                                      "orchestrator.heldout.also"};

void Flatten(const Node& node, const std::string& path, std::map<std::string, std::string>& flat) {
  if (std::find(std::begin(kFree), std::end(kFree), path) != std::end(kFree)) return;
  const bool map = node.kind == Node::Kind::kMap;
  if (node.kind == Node::Kind::kSequence) {
    flat[path] = absl::StrFormat("%d items", node.items.size());
  } else if (!map) {
    flat[path] = node.text;
  }
  for (size_t i = 0; i < node.items.size(); ++i) {
    Flatten(node.items[i],
            map ? JoinPath(path, node.keys[i].text) : absl::StrFormat("%s[%d]", path, i), flat);
  }
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
    if (node != nullptr) Flatten(*node, "orchestrator." + std::string(part), settings);
  }
  return settings;
}

}  // namespace palimpsest::orchestrator
