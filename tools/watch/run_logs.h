#pragma once

#include <string>
#include <vector>

namespace palimpsest::tools {

// The last `count` warnings and errors of a run's latest daemons, oldest first, as "12:03:04 role:
// message (key=value ..)". Only the end of each log is read. Empty: there are none, or no logs.
std::vector<std::string> LastWarnings(const std::string& run_folder, size_t count);

}  // namespace palimpsest::tools
