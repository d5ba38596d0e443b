#pragma once

#include "services/trainer/engine/model_source.h"

namespace palimpsest::trainer {

// SaveModel, and beside it what these weights say of a few fixed tokens, drawn from the vocabulary
// (canary.json), by which whoever serves the version can tell that it serves what was trained. The
// same weights give the same bytes.
absl::Status SaveVersion(const SourceModel& model, const std::string& folder);

}  // namespace palimpsest::trainer
