#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>

#include "common/base/status.h"
#include "common/config/run_sections.h"
#include "common/model/decoder.h"

namespace palimpsest::trainer {

// A model with the files that travel beside its weights.
struct SourceModel {
  std::unique_ptr<model::Decoder> decoder;
  std::map<std::string, std::string> companions;  // name -> content: tokenizer.json, ...
};

// The model that a run starts from: section.folder, or else section.init drawn from `seed`.
absl::StatusOr<SourceModel> MakeModel(const ModelSection& section, uint64_t seed,
                                      model::DType dtype);

// A run that goes on with a checkpoint of `found`: FAILED_PRECONDITION naming the field of
// section.init, where no folder is named, that says otherwise.
absl::Status CheckGoesOn(const ModelSection& section, const model::ModelConfig& found);

// A folder with weights and companions: a Hugging Face folder, a version, a checkpoint.
absl::StatusOr<SourceModel> LoadModel(const std::string& folder, model::DType dtype);

// The companions alone.
absl::Status SaveCompanions(const std::map<std::string, std::string>& companions,
                            const std::string& folder);

// The weights and the companions; any Hugging Face tool can read them.
absl::Status SaveModel(const SourceModel& model, const std::string& folder);

}  // namespace palimpsest::trainer
