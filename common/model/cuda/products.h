#pragma once

#include <cstdint>
#include <memory>

#include "common/base/bfloat16.h"
#include "common/cuda/launch.h"

namespace palimpsest::model {

// Products with weights on a GPU: cuBLAS, whose sums hang on the number of rows; plain loops under
// the emulation. Sums are fp32 (fp32 operands are not cut to TF32). One stream, one thread.
class DeviceProducts {
 public:
  explicit DeviceProducts(cuda::Stream stream);
  ~DeviceProducts();

  // y [R, N] = x [R, K] w' of w [N, K], rounded to Out. In device memory, row-major.
  // (Stored, Out): (float, float), (BFloat16, BFloat16), (BFloat16, float).
  template <class Stored, class Out>
  void Multiply(const Stored* x, const Stored* w, int rows, int k, int n, Out* y);

 private:
  struct Library;
  std::unique_ptr<Library> library_;
};

}  // namespace palimpsest::model
