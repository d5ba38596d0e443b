#pragma once

#include <cstdint>
#include <utility>

#include "common/model/decoder.h"

namespace palimpsest::model {

inline constexpr int64_t kLogProbChunkRows = 1024;

// log softmax(logits / temperature) of hidden rows [N, D] at int64 targets [N]: [N] in nats, fp32
// (fp64 when the model is). temperature > 0.
//
// Differentiable in the hidden rows and the head weight, both gradients summed in fp32 over the
// chunks. Logits live for `chunk_rows` rows at a time, in one buffer. That of the last chunk is
// kept until the backward pass, which makes those before it again: one more product of their rows
// with the head buys memory that does not grow with N.
at::Tensor TokenLogProbs(const Decoder& decoder, const at::Tensor& hidden,
                         const at::Tensor& targets, double temperature,
                         int64_t chunk_rows = kLogProbChunkRows);

// With the entropy [N] of each row's distribution, in nats; differentiable as well.
std::pair<at::Tensor, at::Tensor> TokenLogProbsAndEntropy(const Decoder& decoder,
                                                          const at::Tensor& hidden,
                                                          const at::Tensor& targets,
                                                          double temperature,
                                                          int64_t chunk_rows = kLogProbChunkRows);

}  // namespace palimpsest::model
