#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"
#include "tools/doctor/judge.h"

// Measurements on this machine. They leave nothing behind.
namespace palimpsest::tools {

// The folder, or the nearest one above it that is there.
std::string NearestFolder(const std::string& folder);

// writable, fsync, rename, visibility and clock of the file system of run.folder. The others need
// the first two: they are not there when one of these fails.
std::vector<Finding> ProbeFolder(const RunSection& run, absl::Duration lease);

absl::StatusOr<Space> MeasureSpace(const std::string& folder);
Machine MeasureMachine();

Gpus MeasureGpus();

// One finding, "certificates": those of all roles of the run in tls.folder, now and in a week.
std::vector<Finding> ProbeCertificates(const RunNeeds& needs, absl::Time now);

// One finding for each place of the config: somebody else listens there, or two daemons would, at
// the same address or one that contains it. It listens there itself for a moment.
std::vector<Finding> ProbePorts(const std::vector<ListenPlace>& places);

}  // namespace palimpsest::tools
