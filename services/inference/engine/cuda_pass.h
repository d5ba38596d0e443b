#pragma once

#include <span>
#include <vector>

#include "common/attention/paged_kernel.h"
#include "common/cuda/graphs.h"
#include "common/cuda/memory.h"
#include "common/model/config.h"
#include "common/model/cuda/products.h"
#include "services/inference/engine/cuda_weights.h"
#include "services/inference/engine/device_shelf.h"
#include "services/inference/engine/device_upload.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// The pool on a device. Letters: L layers, N slots, Hk KV heads, d head width.
template <class Stored>
struct DevicePool {
  DevicePool(const model::ModelConfig& config, int64_t pages);
  attention::PagedCache<Stored> Layer(int layer) const;
  Stored* K(int layer) const { return k.template as<Stored>() + layer * slots * row; }
  Stored* V(int layer) const { return v.template as<Stored>() + layer * slots * row; }
  float* Bias(int layer) const { return bias.as<float>() + layer * slots * kv_heads; }

  int64_t slots, row;  // row = Hk d
  int layers, kv_heads, d;
  cuda::DeviceMemory k, v;  // [L, N, Hk, d]
  cuda::DeviceMemory bias;  // [L, N, Hk]
};

// A ring of recorded queries on a device: [L, capacity, H, d].
template <class Stored>
class DeviceRing final : public QueryRing {
 public:
  // row = H d. The shelf outlives it.
  DeviceRing(int layers, int64_t capacity, int64_t row, cuda::Stream stream, DeviceShelf& shelf)
      : layers_(layers), capacity_(capacity), row_(row), stream_(stream), shelf_(shelf) {}
  ~DeviceRing() override { shelf_.Give(std::move(memory_)); }
  std::unique_ptr<QueryRing> Clone() const override {
    auto copy = std::make_unique<DeviceRing>(layers_, capacity_, row_, stream_, shelf_);
    if (memory_.bytes() == 0) return copy;
    copy->HaveMemory();
    cuda::CopyOnDevice(copy->memory_.template as<char>(), memory_.template as<char>(),
                       memory_.bytes(), stream_);
    return copy;
  }
  // Before its first row is recorded: a step that finds no memory is lost, and nothing else.
  void HaveMemory() {
    if (memory_.bytes() == 0) memory_ = shelf_.Take(sizeof(Stored) * layers_ * capacity_ * row_);
  }
  int64_t capacity() const { return capacity_; }
  int64_t stride() const { return capacity_ * row_; }  // elements from layer to layer
  // Of layer 0.
  Stored* At(int32_t position) const {
    return memory_.template as<Stored>() + position % capacity_ * row_;
  }

 private:
  int layers_;
  int64_t capacity_, row_;
  cuda::Stream stream_;
  DeviceShelf& shelf_;
  cuda::DeviceMemory memory_;
};

// Forward passes over the pool. Rows that decode are captured as graphs, one for each power of two
// of rows and of slots; their inputs stand in one block that is copied once a step. Passes with
// prompt chunks are launched one kernel after another: decode rows first, then the chunks' rows.
template <class Stored>
class DevicePass {
 public:
  // All of them outlive it.
  DevicePass(const model::ModelConfig& config, const DevicePool<Stored>& pool, cuda::Stream stream,
             DeviceShelf& shelf);

  void Run(const DeviceWeights<Stored>& weights, std::span<const StepRows> sequences);
  std::span<const float> Logits(const DeviceWeights<Stored>& weights,
                                std::span<const int32_t> rows);

 private:
  struct Inputs;
  struct Chunks;
  Inputs Plan(std::span<const StepRows> sequences);
  size_t UploadBytes(const Inputs& in) const;
  void Fill(std::span<const StepRows> sequences, Inputs& in);
  void FillRows(const StepRows& s, int row, int first, int count, std::span<int32_t> ids,
                std::span<int32_t> positions, std::span<int64_t> slots, std::span<Stored*> ring_to,
                std::span<int64_t> ring_stride, int rows) const;
  void FillChunks(std::span<const StepRows> sequences, Chunks& chunks);
  void Reserve(const Inputs& in);
  void Launch(const DeviceWeights<Stored>& weights, const Inputs& in);
  void Attend(int layer, const Inputs& in);
  void AttendChunks(int layer, const Inputs& in);
  void Multiply(const Stored* x, const Stored* w, const Stored* bias, int rows, int k, int n,
                Stored* y);

  const model::ModelConfig& config_;
  const DevicePool<Stored>& pool_;
  cuda::Stream stream_;
  DeviceShelf& shelf_;
  model::DeviceProducts products_;
  cuda::Graphs graphs_;
  DeviceUpload inputs_, picks_;
  std::vector<int32_t> row_of_;  // of each row of the last pass, where it stands
  // [R, ..] of a pass: D, D, D, (H + 2 Hk) d, H d, H d, 2 I, I wide.
  cuda::DeviceMemory x_, normed_, add_, qkv_, q_, mixed_, inner_, gated_;
  cuda::DeviceMemory parts_;                       // scratch of Decode
  cuda::DeviceMemory sums_, lse_, earlier_, own_;  // of chunks
  cuda::DeviceMemory taken_, logits_;
  cuda::HostMemory logits_here_;
};

}  // namespace palimpsest::inference
