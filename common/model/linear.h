#pragma once

#include <vector>

namespace at {
class Tensor;
}

namespace palimpsest::model {

// x [T, in], w [out, in], of any strides, bias [out] or undefined -> [T, out] = x w' + bias, in the
// precision of its operands, by the quicker of the libraries that torch brings.
at::Tensor Multiply(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias);
at::Tensor Multiply(const at::Tensor& x, const at::Tensor& w);

// Several linear maps of one input as one matrix product: rows of `weight` [sum out, in] (and of
// `bias` [sum out], or undefined) are the storage of `leaves`, the named parameters: first the
// weights in order, then the biases. Gradients go to the leaves; `weight` and `bias` take none.
// Forward numbers are the same with and without autograd. x [T, in] -> [T, sum out].
at::Tensor FusedLinear(const at::Tensor& x, const at::Tensor& weight, const at::Tensor& bias,
                       const std::vector<at::Tensor>& leaves);

}  // namespace palimpsest::model
