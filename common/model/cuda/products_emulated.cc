#include "common/cuda/emulated_device.h"
#include "common/model/cuda/products.h"

namespace palimpsest::model {

struct DeviceProducts::Library {};

DeviceProducts::DeviceProducts(cuda::Stream) {}
DeviceProducts::~DeviceProducts() = default;

template <class Stored, class Out>
void DeviceProducts::Multiply(const Stored* x, const Stored* w, int rows, int k, int n, Out* y) {
  cuda::Submit([=] {
    for (int64_t r = 0; r < rows; ++r) {
      for (int64_t c = 0; c < n; ++c) {
        float sum = 0;
        for (int64_t i = 0; i < k; ++i) sum += Widen(x[r * k + i]) * Widen(w[c * k + i]);
        Narrow(sum, y + r * n + c);
      }
    }
  });
}

template void DeviceProducts::Multiply(const float*, const float*, int, int, int, float*);
template void DeviceProducts::Multiply(const BFloat16*, const BFloat16*, int, int, int, BFloat16*);
template void DeviceProducts::Multiply(const BFloat16*, const BFloat16*, int, int, int, float*);

}  // namespace palimpsest::model
