#include "services/inference/engine/engine_factory.h"

#include <filesystem>

#include "absl/strings/str_format.h"
#include "common/base/kept_memory.h"
#include "common/model/borrowed_threads.h"
#include "services/inference/core/admission.h"
#include "services/inference/engine/cpu_device.h"
#include "services/inference/engine/cuda_device.h"
#include "services/inference/engine/decode_engine.h"

namespace palimpsest::inference {
namespace {

model::Kernels KernelsOf(const EngineOptions& options) {
  return options.batch_invariant ? model::Kernels::kFixed : model::Kernels::kFast;
}

ModelInfo Describe(const model::ModelConfig& c, const std::string& dtype,
                   std::vector<int32_t> stop_ids) {
  const char* names[] = {"qwen3", "qwen2", "llama"};
  return {.architecture = names[static_cast<int>(c.architecture)],
          .dtype = dtype,
          .layers = c.layers,
          .heads = c.heads,
          .kv_heads = c.kv_heads,
          .head_dim = c.head_dim,
          .hidden = c.hidden,
          .vocab = c.vocab,
          .max_position = c.max_position,
          .stop_ids = std::move(stop_ids)};
}

}  // namespace

absl::StatusOr<std::shared_ptr<const model::Decoder>> LoadDecoder(const std::string& folder,
                                                                  const EngineOptions& options) {
  const model::BorrowedThreads threads;
  const auto dtype = options.dtype == "bfloat16" ? model::DType::kBFloat16 : model::DType::kFloat32;
  return model::Decoder::Load(folder, dtype, KernelsOf(options));
}

absl::Status CheckDevice(const std::string& device, bool emulated) {
  if (device == "cuda") return CheckCuda(emulated);
  if (device == "cpu") return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("inference.device=%s is neither cpu nor cuda", device));
}

absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(EngineOptions options) {
  if (options.dtype != "float32" && options.dtype != "bfloat16") {
    return absl::InvalidArgumentError(
        absl::StrFormat("dtype=%s is neither float32 nor bfloat16", options.dtype));
  }
  RETURN_IF_ERROR(CheckDevice(options.device, options.emulated));
  if (options.device == "cuda" && options.batch_invariant) {
    return absl::InvalidArgumentError(
        "batch_invariant=true: sums on inference.device=cuda hang on the batch");
  }
  if (options.threads < 1)
    return absl::InvalidArgumentError(absl::StrFormat("threads=%d is not >= 1", options.threads));
  if (options.limits.max_running < 1 || options.limits.prefill_tokens < 1 ||
      options.limits.kv_pool_bytes < 1) {
    return absl::InvalidArgumentError(
        "limits: max_running, prefill_tokens and kv_pool_bytes must be >= 1");
  }
  KeepFreedMemory();
  ASSIGN_OR_RETURN(std::shared_ptr<const model::Decoder> decoder,
                   LoadDecoder(options.model_folder, options));
  ASSIGN_OR_RETURN(std::vector<int32_t> stop_ids, model::ReadStopIds(options.model_folder));
  std::unique_ptr<const Tokenizer> tokenizer;
  if (options.with_tokenizer && std::filesystem::exists(options.model_folder + "/tokenizer.json")) {
    ASSIGN_OR_RETURN(tokenizer, Tokenizer::Load(options.model_folder));
  }
  ModelInfo info = Describe(decoder->config(), options.dtype, std::move(stop_ids));
  const int64_t pages = options.limits.kv_pool_bytes / CostOf(info).page_bytes;
  std::unique_ptr<StepDevice> device;
  if (options.device == "cuda") {
    ASSIGN_OR_RETURN(device, MakeCudaDevice(decoder, pages));
  } else {
    device = MakeCpuDevice(decoder, pages);
  }
  return StartEngine({.options = std::move(options),
                      .model = std::move(info),
                      .tokenizer = std::move(tokenizer),
                      .decoder = std::move(decoder),
                      .device = std::move(device)});
}

}  // namespace palimpsest::inference
