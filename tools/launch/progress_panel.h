#pragma once

#include <string>
#include <vector>

#include "palimpsest/v1/orchestrator.pb.h"

namespace palimpsest::tools {

// One line: phase, step, reward, speed, events, staleness, mismatch, time left.
std::string ProgressLine(const v1::Progress& progress);

// A few lines of at most `columns` characters, for a terminal.
std::vector<std::string> ProgressPanel(const v1::Progress& progress, int columns);

}  // namespace palimpsest::tools
