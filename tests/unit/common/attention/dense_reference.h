#pragma once

#include <ATen/core/Tensor.h>

#include <vector>

#include "common/attention/packed_batch.h"
#include "common/compaction/gradient_mode.h"
#include "common/model/decoder.h"

// The slow, obvious fp64 version of replay, written from the design's equations: one sequence, one
// head, one row at a time, everything by autograd. And a toy decoder to run both under.
namespace palimpsest::attention::testing {

// x0 = E[id] + sin(position * f); x <- x + tanh(attend(q, k, v) Wo) per layer; logits = x U.
struct ToyModel {
  int layers, heads, kv_heads, d, width, vocab;
  std::vector<at::Tensor> parameters;  // E, U, f, then Wq, Wk, Wv, Wo per layer; all require grad
  ToyModel(int layers, int heads, int kv_heads, int d, int vocab, uint64_t seed, double peak = 1.0);

  at::Tensor Embed(const std::vector<int64_t>& ids, const std::vector<int64_t>& positions) const;
  struct Projections {
    at::Tensor q, k, v;
  };
  Projections Project(int layer, const at::Tensor& x) const;
  at::Tensor Close(int layer, const at::Tensor& x, const at::Tensor& o) const;
  // log p(targets[i] | x[rows[i]])
  at::Tensor LogProbs(const at::Tensor& x, const std::vector<int64_t>& rows,
                      const std::vector<int64_t>& targets) const;
  // All layers under a context.
  at::Tensor Forward(const std::vector<int64_t>& ids, const std::vector<int64_t>& positions,
                     model::AttentionContext& a) const;
};

struct ReferenceOptions {
  compaction::GradientMode gradient = compaction::GradientMode::kFull;
  bool mass_twice = false;        // the known mistake: fit the window's share of the global softmax
  int record_layer_for_all = -1;  // the known mistake: this layer's kept positions in every layer
};

// Log-probabilities of tokens 1 .. rows of one sequence under its log. [rows] (the last needs
// tokens.size() > rows).
at::Tensor ReferenceLogProbs(const ToyModel& model, const ReplaySequence& s,
                             const ReferenceOptions& options);

}  // namespace palimpsest::attention::testing
