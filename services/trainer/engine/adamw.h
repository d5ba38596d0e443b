#pragma once

#include <cstdint>
#include <string>

#include "common/base/status.h"
#include "common/model/decoder.h"
#include "services/trainer/engine/weight_decay.h"

namespace palimpsest::trainer {

struct AdamOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double epsilon = 1e-8;
  double weight_decay = 0.01;
  DecayGroup decay = DecayGroup::kMatrices;  // what weight_decay is of
  double clip_norm = 1;                      // of all gradients together; > 0
  bool operator==(const AdamOptions&) const = default;
};
absl::Status Validate(const AdamOptions& options);

// Adam with decoupled weight decay (Loshchilov and Hutter, 2019) over the parameters of a decoder,
// stepped in place; gradients are where autograd left them. One thread.
class AdamW {
 public:
  // Makes the parameters require gradients. They are fp32 (or fp64).
  AdamW(const model::NamedTensors& parameters, const AdamOptions& options);
  ~AdamW();

  // L2 norm over all gradients.
  double GradientNorm() const;
  // One update with gradients scaled down to clip_norm; `norm` is GradientNorm(), finite.
  void Step(double learning_rate, double norm);
  void ClearGradients();

  int64_t updates() const { return updates_; }
  // The moments as a safetensors file: "m.<parameter>" and "v.<parameter>".
  absl::Status Save(const std::string& path) const;
  // As saved after `updates` updates. DATA_LOSS names a tensor that is missing or of another shape.
  absl::Status Load(const std::string& path, int64_t updates);

 private:
  AdamOptions options_;
  model::NamedTensors parameters_;
  model::NamedTensors moments_;  // [2 * parameters]: m then v of each
  int64_t updates_ = 0;
};

}  // namespace palimpsest::trainer
