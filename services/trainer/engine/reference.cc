#include "services/trainer/engine/reference.h"

#include <ATen/ATen.h>

#include "absl/strings/str_format.h"
#include "common/telemetry/log.h"
#include "services/trainer/engine/model_source.h"

namespace palimpsest::trainer {

absl::StatusOr<std::unique_ptr<model::Decoder>> LoadReference(const EngineOptions& options,
                                                              const model::ModelConfig& trained) {
  const bool own = !options.reference_folder.empty();
  ASSIGN_OR_RETURN(SourceModel source,
                   own ? LoadModel(options.reference_folder, options.dtype)
                       : MakeModel(options.model, options.run.seed, options.dtype));
  const model::ModelConfig& config = source.decoder->config();
  if (config.layers != trained.layers || config.kv_heads != trained.kv_heads ||
      config.vocab != trained.vocab || config.max_position < trained.max_position) {
    return absl::FailedPreconditionError(absl::StrFormat(
        "trainer.reference_folder=%s: layers=%d kv_heads=%d vocab=%d max_position=%d do not fit "
        "the trained model's %d, %d, %d, %d",
        options.reference_folder, config.layers, config.kv_heads, config.vocab, config.max_position,
        trained.layers, trained.kv_heads, trained.vocab, trained.max_position));
  }
  int64_t bytes = 0;
  for (const auto& [name, tensor] : source.decoder->Parameters()) {
    bytes += static_cast<int64_t>(tensor.nbytes());
  }
  Log(Severity::kInfo, "holds a reference",
      {{"folder", own ? options.reference_folder : std::string("the first weights of the run")},
       {"bytes", bytes}});
  return std::move(source.decoder);
}

}  // namespace palimpsest::trainer
