#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::tools {

struct DaemonSpec {
  std::string name;               // "trainer-0"
  std::vector<std::string> argv;  // argv[0]: path of the program
  std::string log_file;
  bool leads = false;  // the run is over when this one ends well
};

// palimpsest-<role> of this build, with its log in the run's folder. `sets`: a.b=c over the file.
absl::StatusOr<DaemonSpec> MakeSpec(std::string_view role, const std::string& run_folder,
                                    const std::string& config_file,
                                    const std::vector<std::string>& sets);

// "key=text" for --set, with the text quoted as YAML wants it whatever it holds.
std::string TextSet(std::string_view key, const std::string& text);

// Runs the daemon with --check-config; it says on stderr what is wrong. INVALID_ARGUMENT then.
absl::Status CheckConfigOf(const DaemonSpec& daemon);

}  // namespace palimpsest::tools
