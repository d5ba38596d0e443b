#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "tools/doctor/finding.h"

namespace palimpsest::tools {

struct DoctorOptions {
  std::string config;             // YAML of the run
  std::vector<std::string> sets;  // a.b=c over the file
};

// Looks whether this machine can hold the run: configuration, model, folder, limits, clock, ports.
// `out` gets {"config", "checks": [{"name", "verdict", "saw", "todo"}]}, `table` the same to read.
// 0: nothing fails (warnings may be there); 1: something does.
int RunDoctor(const DoctorOptions& options, std::ostream& out, std::ostream& table);

}  // namespace palimpsest::tools
