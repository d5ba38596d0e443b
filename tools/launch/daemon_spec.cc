#include "tools/launch/daemon_spec.h"

#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"
#include "tools/launch/child_process.h"

namespace palimpsest::tools {

std::string ProgramOf(std::string_view role) {
  return absl::StrFormat("palimpsest-%s", role == "router" ? "inference" : role);
}

absl::StatusOr<DaemonSpec> MakeSpec(std::string_view role, int rank, const std::string& run_folder,
                                    const std::string& config_file,
                                    const std::vector<std::string>& sets) {
  DaemonSpec spec{.name = absl::StrFormat("%s-%d", role, rank), .role = std::string(role)};
  spec.address_file = absl::StrFormat("%s/addresses/%s", run_folder, spec.name);
  ASSIGN_OR_RETURN(const std::string program, ProgramBeside(ProgramOf(role)));
  spec.argv = {program, "--config", config_file};
  for (const std::string& set : sets) spec.argv.insert(spec.argv.end(), {"--set", set});
  return spec;
}

// A string of JSON is one of YAML, too.
std::string TextSet(std::string_view key, const std::string& text) {
  constexpr auto kReplace = nlohmann::json::error_handler_t::replace;
  return absl::StrFormat("%s=%s", key, nlohmann::json(text).dump(-1, ' ', false, kReplace));
}

absl::Status CheckConfigOf(const DaemonSpec& daemon) {
  std::vector<std::string> argv = daemon.argv;
  argv.push_back("--check-config");
  ASSIGN_OR_RETURN(ChildProcess check, ChildProcess::Start(argv, ""));
  const Ending ended = check.Wait();
  if (ended.ok()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("%s refuses the configuration (%s)", daemon.name, ended.Text()));
}

}  // namespace palimpsest::tools
