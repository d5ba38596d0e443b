#pragma once

#include <string>

#include "common/config/run_sections.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools {

// {"run", "folder", "exit_code", "restarts"}, with "report" after a run that ended well and wrote
// one, "failure" and "cause" after one that failed.
std::string OutcomeJson(const RunSection& run, const RunEnding& ending);

// On stderr: whose failure it was, what the daemon said of it, and the end of its log. Nothing when
// all went well.
void TellFailure(const std::string& command, const RunEnding& ending);

}  // namespace palimpsest::tools
