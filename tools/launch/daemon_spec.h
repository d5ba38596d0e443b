#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::tools {

// One daemon of a run.
struct DaemonSpec {
  std::string name;               // "trainer-0"
  std::vector<std::string> argv;  // argv[0]: path of the program
  std::string log_file;
  bool leads = false;  // the run is over when this one ends well
  std::string role;    // of its replicas, each is dispensable while another one is left
  // Ranks that train together: when one ends all are ended, and started again together.
  std::string team;
  // Removed when the daemon is lost for good, so that nobody waits for it. Empty: none.
  std::string address_file;
  int node = 0;  // index into the nodes of the place
  int cpus = 0;  // its own; 0: shares them
  int gpus = 0;
};

// "palimpsest-trainer". A router is an inference daemon that was told so.
std::string ProgramOf(std::string_view role);

// Daemon `rank` of the role, by the program of this build, on node 0, with no log yet: an attempt
// gives it one (run_folder.h). `sets`: a.b=c over the file.
absl::StatusOr<DaemonSpec> MakeSpec(std::string_view role, int rank, const std::string& run_folder,
                                    const std::string& config_file,
                                    const std::vector<std::string>& sets);

// "key=text" for --set, with the text quoted as YAML wants it whatever it holds.
std::string TextSet(std::string_view key, const std::string& text);

// Runs the daemon with --check-config; it says on stderr what is wrong. INVALID_ARGUMENT then.
absl::Status CheckConfigOf(const DaemonSpec& daemon);

}  // namespace palimpsest::tools
