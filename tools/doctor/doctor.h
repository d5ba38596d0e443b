#pragma once

#include <iosfwd>
#include <string>
#include <vector>

#include "tools/doctor/finding.h"

namespace palimpsest::tools {

struct DoctorOptions {
  std::string config;             // YAML of the run
  std::vector<std::string> sets;  // a.b=c over the file
  bool slurm = false;             // on every node of this Slurm job, and between them
  std::string meeting;            // of one of these nodes: the folder where they meet; else empty
};

// Looks whether this machine, or each node of this Slurm job, can hold the run: configuration,
// certificates, model, folder, limits, clock, GPUs, ports, and what nodes see of one another. `out`
// gets {"config", "checks": [{"name", "verdict", "saw", "todo", "node"?}]}, `table` the same to
// read; with `meeting` nothing but the file of this node (FileOfNode) is written. 0: nothing fails
// (warnings may be there); 1: something does.
int RunDoctor(const DoctorOptions& options, std::ostream& out, std::ostream& table);

}  // namespace palimpsest::tools
