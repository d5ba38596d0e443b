#pragma once

#include <cstdint>
#include <span>
#include <string>

#include "common/base/status.h"
#include "common/model/decoder.h"
#include "services/trainer/engine/parameter_shards.h"
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

// Adam with decoupled weight decay (Loshchilov and Hutter, 2019) over the slices of the parameters
// that one rank owns, stepped in place. A bf16 slice has an fp32 master here, which begins with the
// slice's values: the master is stepped and the slice is the master rounded to nearest, so updates
// too small for bf16 add up until they show. One thread.
class AdamW {
 public:
  // `shards` outlives it.
  AdamW(const ParameterShards& shards, const AdamOptions& options);
  ~AdamW();

  // One update with gradients scaled down to clip_norm; `norm` is that of all gradients of all
  // ranks, finite. `gradients`: as ParameterShards::TakeGradients gives them.
  void Step(double learning_rate, double norm, std::span<const at::Tensor> gradients);

  int64_t updates() const { return updates_; }

  // What this rank of `size` saves, the tensors themselves: "m.<parameter>", "v.<parameter>" and,
  // where there are masters, "w.<parameter>"; of one rank with the shapes of the parameters, of
  // more flat slices.
  model::NamedTensors ToSave(int size) const;
  // As saved after `updates` updates by any number of ranks. Parameters may have another dtype than
  // then: saved masters become the values of fp32 slices (gather them), and where none were saved
  // masters are what the slices hold. DATA_LOSS names a tensor that is missing or of another shape.
  absl::Status Load(const std::string& folder, int rank, int size, int64_t updates);

 private:
  AdamOptions options_;
  const ParameterShards& shards_;
  // Of a parameter, as they are saved: its moments, and what is stepped, the slice or its master.
  enum Part { kMean, kSquare, kValue, kParts };
  at::Tensor& Of(size_t parameter, Part part);
  bool HasMaster(size_t parameter) const;

  model::NamedTensors state_;  // [kParts * parameters]
  int64_t updates_ = 0;
};

// AdamW::ToSave of rank `rank` of `size` as a file of a checkpoint's folder: of one rank
// optimizer.safetensors, of more optimizer-<rank>-of-<size>.safetensors. Any thread.
absl::Status SaveMoments(const model::NamedTensors& tensors, const std::string& folder, int rank,
                         int size);

// L2 norm of the gradients that a rank owns, squared.
double SquaredNorm(std::span<const at::Tensor> gradients);

}  // namespace palimpsest::trainer
