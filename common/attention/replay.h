#pragma once

#include <memory>
#include <vector>

#include "common/attention/packed_batch.h"
#include "common/compaction/gradient_mode.h"
#include "common/model/decoder.h"

namespace palimpsest::attention {

struct HeldPrompt;

struct ReplayOptions {
  compaction::GradientMode gradient = compaction::GradientMode::kFull;
  double scale = 1;  // 1/sqrt(d)
};

// Evaluates a packed batch so that every row attends to exactly what it attended to when it was
// sampled. The forward pass is never cut: in each layer the events are solved in order, batched
// over sequences and heads, then one AttentionPlan with a constant number of kernel groups runs
// over all rows. One object serves one forward pass, layers in order, and its backward pass: a
// layer that is asked again there, with the same rows, gives the same bits and notes no event
// twice.
class ReplayContext final : public model::AttentionContext {
 public:
  // `batch` outlives the pass (and its backward); so does `held`, of a batch behind a prompt, whose
  // forward pass is over.
  ReplayContext(const PackedBatch& batch, const ReplayOptions& options,
                const HeldPrompt* held = nullptr);
  ~ReplayContext() override;

  at::Tensor Attend(int layer, const at::Tensor& q, const at::Tensor& k,
                    const at::Tensor& v) override;

  // After the last layer: the events of each node as they were replayed, with kept positions. Fits
  // are not measured here; the engine did when they happened.
  std::vector<std::vector<context::Event>> TakeEvents();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest::attention
