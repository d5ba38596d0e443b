#pragma once

#include <cstdint>

namespace at {
class Tensor;
}
namespace c10 {
enum class ScalarType : int8_t;
}

namespace palimpsest::model {

// Products with the head weight [V, D] in fp32 (fp64 when it is fp64). A bf16 weight is widened a
// block of rows at a time: products of bf16 are exact in fp32, and nothing is rounded to bf16.

// What a weight is widened to.
c10::ScalarType WideType(const at::Tensor& weight);
// rows [N, D] -> logits [N, V].
at::Tensor HeadLogits(const at::Tensor& rows, const at::Tensor& weight);
// The same -> log softmax(logits / temperature) [N, V].
at::Tensor HeadLogProbs(const at::Tensor& rows, const at::Tensor& weight, double temperature);
// grad [N, V] (fp32, fp64) -> [N, D] = grad . weight.
at::Tensor HeadInputGrad(const at::Tensor& grad, const at::Tensor& weight);

}  // namespace palimpsest::model
