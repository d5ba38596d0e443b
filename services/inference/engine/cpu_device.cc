#include "services/inference/engine/cpu_device.h"

#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include <algorithm>
#include <cmath>

#include "services/inference/engine/cpu_events_torch.h"
#include "services/inference/engine/host_ring_torch.h"
#include "services/inference/engine/step_attention_torch.h"

namespace palimpsest::inference {
namespace {

at::ScalarType DTypeOf(const model::Decoder& decoder) {
  return decoder.dtype() == model::DType::kBFloat16 ? at::kBFloat16 : at::kFloat;
}

struct HostWeights final : StagedWeights {
  std::shared_ptr<const model::Decoder> decoder;
};

class CpuDevice final : public StepDevice {
 public:
  CpuDevice(std::shared_ptr<const model::Decoder> decoder, int64_t pages)
      : decoder_(std::move(decoder)),
        scale_(1 / std::sqrt(static_cast<double>(config().head_dim))),
        pool_(config().layers, config().kv_heads, config().head_dim, DTypeOf(*decoder_), pages) {}

  absl::Status CheckPolicy(const context::ContextPolicy&) const override {
    return absl::OkStatus();
  }
  absl::Status CheckForced(const context::Event&) const override { return absl::OkStatus(); }

  absl::StatusOr<std::unique_ptr<StagedWeights>> Stage(
      std::shared_ptr<const model::Decoder> decoder) const override {
    auto weights = std::make_unique<HostWeights>();
    weights->decoder = std::move(decoder);
    return weights;
  }
  void Flip(std::unique_ptr<StagedWeights> weights) override {
    decoder_ = std::move(static_cast<HostWeights&>(*weights).decoder);
  }

  void CopyPage(int32_t from, int32_t to) override { pool_.CopyPage(from, to); }

  std::unique_ptr<QueryRing> NewRing(int32_t capacity, bool keys) override {
    const model::ModelConfig& c = config();
    return std::make_unique<HostRing>(c.layers, c.heads, c.kv_heads, c.head_dim, DTypeOf(*decoder_),
                                      capacity, keys);
  }

  void Run(std::span<const StepRows> sequences) override {
    c10::NoGradGuard no_grad;
    std::vector<int64_t> ids, positions;
    for (const StepRows& s : sequences) {
      const int32_t before = *std::max_element(s.lengths.begin(), s.lengths.end());
      pool_.TakeMemory(s.table.first(PagesFor(before + std::ssize(s.tokens))));
      for (size_t i = 0; i < s.tokens.size(); ++i) {
        ids.push_back(s.tokens[i]);
        positions.push_back(s.position + static_cast<int64_t>(i));
      }
    }
    StepAttention attention(pool_, sequences, scale_, fixed());
    hidden_ =
        decoder_->Hidden(at::tensor(ids, at::kLong), at::tensor(positions, at::kLong), attention);
  }

  std::span<const float> Logits(std::span<const int32_t> rows) override {
    if (rows.empty()) return {};
    c10::NoGradGuard no_grad;
    const std::vector<int64_t> wide(rows.begin(), rows.end());
    logits_ = decoder_->Logits(hidden_.index_select(0, at::tensor(wide, at::kLong)))
                  .to(at::kFloat)
                  .contiguous();
    return {logits_.const_data_ptr<float>(), static_cast<size_t>(logits_.numel())};
  }

  void Solve(int layer, int first_head, int heads, std::span<EventTask> events) override {
    SolveOnHost(pool_, scale_, layer, first_head, heads, events,
                fixed() ? EventCompany::kNone : EventCompany::kAny);
  }

  absl::Status Usable() override { return absl::OkStatus(); }

 private:
  const model::ModelConfig& config() const { return decoder_->config(); }
  bool fixed() const { return decoder_->kernels() == model::Kernels::kFixed; }

  std::shared_ptr<const model::Decoder> decoder_;
  double scale_;
  KvPool pool_;
  at::Tensor hidden_, logits_;  // of the last pass
};

}  // namespace

std::unique_ptr<StepDevice> MakeCpuDevice(std::shared_ptr<const model::Decoder> decoder,
                                          int64_t pages) {
  return std::make_unique<CpuDevice>(std::move(decoder), pages);
}

}  // namespace palimpsest::inference
