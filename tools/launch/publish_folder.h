#pragma once

#include <string>

#include "common/base/clock.h"
#include "common/base/status.h"
#include "common/base/strong_int.h"
#include "common/config/run_sections.h"

namespace palimpsest::tools {

// Makes the weights, config, tokenizer and chat template of a Hugging Face folder the newest
// version of the run's weights store; the same files again keep their number. Files are linked
// where the file system allows it, else copied, so they must not be written in place while they are
// served (replacing them is fine). NOT_FOUND: no such folder, or no config.json in it.
absl::StatusOr<PolicyVersion> PublishFolder(const std::string& model, const RunSection& run,
                                            Clock& clock);

}  // namespace palimpsest::tools
