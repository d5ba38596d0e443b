#pragma once

#include <memory>
#include <string>

#include "common/model/decoder.h"
#include "common/tokenizer/tokenizer.h"
#include "services/inference/engine/engine_factory.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// The weights of a folder, as the options want them; beside the engine's own thread.
absl::StatusOr<std::shared_ptr<const model::Decoder>> LoadDecoder(const std::string& folder,
                                                                  const EngineOptions& options);

struct EngineParts {
  EngineOptions options;
  ModelInfo model;
  std::unique_ptr<const Tokenizer> tokenizer;  // may be null
  // The device's weights are those of the decoder, which Score reads.
  std::shared_ptr<const model::Decoder> decoder;
  std::unique_ptr<StepDevice> device;
};
// One thread decodes from now on, until the engine goes.
std::unique_ptr<Engine> StartEngine(EngineParts parts);

}  // namespace palimpsest::inference
