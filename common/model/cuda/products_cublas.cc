#include <cublas_v2.h>
#include <cuda_runtime.h>

#include <stdexcept>
#include <string>

#include "common/cuda/memory.h"
#include "common/model/cuda/products.h"

namespace palimpsest::model {
namespace {

// Its own, so that a captured graph takes none: what NVIDIA names for Hopper.
constexpr size_t kWorkspaceBytes = 32 << 20;

void Check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  cudaGetLastError();  // told here, not by the next launch
  throw std::runtime_error(std::string(what) + ": " + cublasGetStatusString(status));
}

constexpr cudaDataType_t TypeOf(const float*) { return CUDA_R_32F; }
constexpr cudaDataType_t TypeOf(const BFloat16*) { return CUDA_R_16BF; }

}  // namespace

struct DeviceProducts::Library {
  cublasHandle_t handle = nullptr;
  cuda::DeviceMemory workspace{kWorkspaceBytes};
  ~Library() { cublasDestroy(handle); }
};

DeviceProducts::DeviceProducts(cuda::Stream stream) : library_(std::make_unique<Library>()) {
  Check(cublasCreate(&library_->handle), "cublasCreate");
  Check(cublasSetStream(library_->handle, stream), "cublasSetStream");
  Check(cublasSetWorkspace(library_->handle, library_->workspace.as<void>(), kWorkspaceBytes),
        "cublasSetWorkspace");
}
DeviceProducts::~DeviceProducts() = default;

// Row-major y = x w' is column-major y' = w x', of which w stands transposed.
template <class Stored, class Out>
void DeviceProducts::Multiply(const Stored* x, const Stored* w, int rows, int k, int n, Out* y) {
  if (rows == 0) return;
  const float one = 1, zero = 0;
  Check(
      cublasGemmEx(library_->handle, CUBLAS_OP_T, CUBLAS_OP_N, n, rows, k, &one, w, TypeOf(w), k, x,
                   TypeOf(x), k, &zero, y, TypeOf(y), n, CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
      "cublasGemmEx");
}

template void DeviceProducts::Multiply(const float*, const float*, int, int, int, float*);
template void DeviceProducts::Multiply(const BFloat16*, const BFloat16*, int, int, int, BFloat16*);
template void DeviceProducts::Multiply(const BFloat16*, const BFloat16*, int, int, int, float*);

}  // namespace palimpsest::model
