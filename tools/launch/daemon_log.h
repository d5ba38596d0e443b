#pragma once

#include <string>
#include <vector>

namespace palimpsest::tools {

// The last `count` lines of a daemon's log; fewer when they are very long. Empty: no such file.
std::vector<std::string> LastLines(const std::string& log_file, int count);

// What a daemon that ended by itself said of it in its last line: the status of its "daemon
// failed", or the line itself when it is no log line (a refused configuration). "" when it is
// another one. What Slurm writes behind it into the same log is passed over.
std::string LastWords(const std::string& log_file);

}  // namespace palimpsest::tools
