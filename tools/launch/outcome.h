#pragma once

#include <string>

#include "common/config/run_sections.h"
#include "tools/launch/slurm_place.h"
#include "tools/launch/supervisor.h"

namespace palimpsest::tools {

// {"run", "folder", "exit_code", "attempt", "restarts"}, with "report" after a run that ended well
// and wrote one, "failure" and "cause" after one that failed, "lost" where replicas were done
// without, and "job": {"id", "restart", "nodes"} under Slurm. `attempt`: 0 when none was begun.
// `slurm`: null on one machine.
std::string OutcomeJson(const RunSection& run, int attempt, const RunEnding& ending,
                        const SlurmPlace* slurm);

// Of an ending with a failure: whose it was, the end of that daemon's log, and its own word for it.
// Several lines, the last without its newline.
std::string FailureText(const RunEnding& ending);

}  // namespace palimpsest::tools
