#include "services/inference/engine/cuda_device.h"

#include <exception>
#include <string_view>

#include "absl/strings/str_format.h"
#include "services/inference/core/page_pool.h"
#include "services/inference/engine/cuda_event_limits.h"
#include "services/inference/engine/cuda_events.h"
#include "services/inference/engine/cuda_pass.h"
#include "services/inference/engine/cuda_weights.h"

namespace palimpsest::inference {
namespace {

template <class Stored>
class CudaDevice final : public StepDevice {
 public:
  CudaDevice(const model::Decoder& decoder, int64_t pages)
      : config_(decoder.config()),
        weights_(CopyWeights<Stored>(decoder)),
        pool_(config_, pages),
        pass_(config_, pool_, stream_.get(), shelf_),
        events_(config_, pool_, stream_.get(), shelf_) {}

  absl::Status CheckPolicy(const context::ContextPolicy& policy) const override {
    return CheckDevicePolicy(policy);
  }
  absl::Status CheckForced(const context::Event& event) const override {
    return CheckDeviceForced(event);
  }

  absl::StatusOr<std::unique_ptr<StagedWeights>> Stage(
      std::shared_ptr<const model::Decoder> decoder) const override {
    try {
      return shelf_.OrEmptied([&] { return CopyWeights<Stored>(*decoder); });
    } catch (const cuda::NoMemory& error) {
      return absl::ResourceExhaustedError(
          absl::StrFormat("new weights beside the live ones on the GPU: %s", error.what()));
    } catch (const std::exception& error) {
      return absl::InternalError(absl::StrFormat("new weights to the GPU: %s", error.what()));
    }
  }
  void Flip(std::unique_ptr<StagedWeights> weights) override {
    cuda::Wait(stream_.get());
    weights_.reset(static_cast<DeviceWeights<Stored>*>(weights.release()));
  }

  void CopyPage(int32_t from, int32_t to) override {
    const size_t page = sizeof(Stored) * kPageSlots * pool_.row,
                 pitch = sizeof(Stored) * pool_.slots * pool_.row,
                 bias_page = sizeof(float) * kPageSlots * pool_.kv_heads,
                 bias_pitch = sizeof(float) * pool_.slots * pool_.kv_heads;
    const auto copy = [&](const cuda::DeviceMemory& memory, size_t stride, size_t bytes) {
      char* const base = memory.as<char>();
      cuda::CopyRowsOnDevice(base + to * bytes, base + from * bytes, stride, bytes, pool_.layers,
                             stream_.get());
    };
    copy(pool_.k, pitch, page);
    copy(pool_.v, pitch, page);
    copy(pool_.bias, bias_pitch, bias_page);
  }

  std::unique_ptr<QueryRing> NewRing(int32_t capacity, bool) override {
    return std::make_unique<DeviceRing<Stored>>(
        config_.layers, capacity, int64_t{config_.heads} * config_.head_dim, stream_.get(), shelf_);
  }

  void Run(std::span<const StepRows> sequences) override { pass_.Run(*weights_, sequences); }
  std::span<const float> Logits(std::span<const int32_t> rows) override {
    return pass_.Logits(*weights_, rows);
  }
  void Solve(int layer, int first_head, int heads, std::span<EventTask> events) override {
    events_.Solve(layer, first_head, heads, events);
  }

  // The first call takes away an error of the past, if it can be: one that ended its process's
  // work on the GPU stays.
  absl::Status Usable() override {
    absl::Status last;
    for (int i = 0; i < 2; ++i) {
      try {
        cuda::Wait(stream_.get());
        last = absl::OkStatus();
      } catch (const std::exception& error) {
        last = absl::UnavailableError(absl::StrFormat("the GPU is lost: %s", error.what()));
      }
    }
    return last;
  }

 private:
  const model::ModelConfig config_;
  cuda::OwnedStream stream_;
  mutable DeviceShelf shelf_;
  std::unique_ptr<DeviceWeights<Stored>> weights_;
  DevicePool<Stored> pool_;
  DevicePass<Stored> pass_;
  DeviceEvents<Stored> events_;
};

absl::Status CheckModel(const model::ModelConfig& c) {
  const auto refuse = [](const char* field, int value, const char* why) {
    return absl::InvalidArgumentError(
        absl::StrFormat("config.json: %s=%d, inference.device=cuda needs %s", field, value, why));
  };
  if (c.head_dim != 64 && c.head_dim != 128) return refuse("head_dim", c.head_dim, "64 or 128");
  if (c.hidden % 8 != 0 || c.hidden > 32768)
    return refuse("hidden_size", c.hidden, "a multiple of 8, at most 32768");
  if (c.intermediate % 8 != 0)
    return refuse("intermediate_size", c.intermediate, "a multiple of 8");
  return absl::OkStatus();
}

}  // namespace

absl::Status CheckCuda(bool emulated) {
  const bool is_emulation = std::string_view(cuda::PlatformName()) == "emulated";
  if (is_emulation && !emulated) {
    return absl::InvalidArgumentError(
        "inference.device=cuda: this build has no CUDA; cmake --preset cuda");
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<StepDevice>> MakeCudaDevice(
    const std::shared_ptr<const model::Decoder>& decoder, int64_t pages) {
  if (const std::string why = cuda::WhyNoDevice(); !why.empty())
    return absl::FailedPreconditionError("inference.device=cuda: " + why);
  RETURN_IF_ERROR(CheckModel(decoder->config()));
  try {
    if (decoder->dtype() == model::DType::kBFloat16)
      return std::make_unique<CudaDevice<BFloat16>>(*decoder, pages);
    return std::make_unique<CudaDevice<float>>(*decoder, pages);
  } catch (const std::exception& error) {
    return absl::ResourceExhaustedError(absl::StrFormat(
        "the weights and a KV pool of %d pages on the GPU: %s", pages, error.what()));
  }
}

}  // namespace palimpsest::inference
