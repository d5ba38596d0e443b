#pragma once

#include <memory>
#include <vector>

#include "common/base/bfloat16.h"
#include "common/cuda/memory.h"
#include "common/model/decoder.h"
#include "services/inference/engine/step_device.h"

namespace palimpsest::inference {

// Where the weights of one layer stand on a device; nullptr: the model has none. Letters: D hidden
// width, I inner width, H heads, Hk KV heads, d head width.
template <class Stored>
struct DeviceLayer {
  const Stored *input_norm = nullptr, *mlp_norm = nullptr;   // [D]
  const Stored *q_norm = nullptr, *k_norm = nullptr;         // [d]
  const Stored *qkv = nullptr, *qkv_bias = nullptr;          // [(H + 2 Hk) d, D]
  const Stored *output = nullptr, *output_bias = nullptr;    // [D, H d]
  const Stored *gate_up = nullptr, *gate_up_bias = nullptr;  // [2 I, D]
  const Stored *down = nullptr, *down_bias = nullptr;        // [D, I]
};

template <class Stored>
struct DeviceWeights final : StagedWeights {
  cuda::DeviceMemory memory;
  const Stored* embedding = nullptr;   // [V, D]
  const Stored* head = nullptr;        // [V, D]; the embedding when tied
  const Stored* final_norm = nullptr;  // [D]
  const float* frequencies = nullptr;  // [d / 2]
  std::vector<DeviceLayer<Stored>> layers;
};

// A copy on the device of a decoder's parameters, which are Stored. Thread: any. Throws when there
// is no memory.
template <class Stored>
std::unique_ptr<DeviceWeights<Stored>> CopyWeights(const model::Decoder& decoder);

}  // namespace palimpsest::inference
