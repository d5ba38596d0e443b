#include <cmath>

#include "common/compaction/cuda/errors.h"
#include "common/cuda/device.cuh"

namespace palimpsest::compaction {
namespace {

constexpr int kThreads = 256;

// A block per problem, a thread per query.
__global__ void __launch_bounds__(kThreads) MassKernel(ErrorBatch e) {
  const int64_t problem = blockIdx.x;
  const HeadFacts& facts = e.heads[problem];
  double sum = 0;
  for (int i = threadIdx.x; i < facts.queries; i += kThreads) {
    const float* a = e.weights + (problem * e.n + i) * e.t;
    double mass = 0;
    for (int j = 0; j < facts.keep; ++j)
      mass += e.log_weights ? a[j] * exp(e.log_weights[problem * e.t + j]) : double{a[j]};
    sum += fabs(mass - 1);
  }
  sum = cuda::BlockSum(sum, cuda::SharedMemory<double>());
  if (threadIdx.x == 0) e.errors[problem] = sum / max(facts.queries, 1);
}

// A block per problem, a thread per entry of Y.
__global__ void __launch_bounds__(kThreads) OutputKernel(ErrorBatch e) {
  const int64_t problem = blockIdx.x;
  const HeadFacts& facts = e.heads[problem];
  const double* fitted = e.fitted ? e.fitted + problem * e.t * (e.t + e.d) + facts.keep : nullptr;
  const float* kept = e.kept + problem * e.t * e.d;
  double difference = 0, norm = 0;
  for (int at = threadIdx.x; at < facts.queries * e.d; at += kThreads) {
    const int i = at / e.d, c = at % e.d;
    const float* x = e.weights + (problem * e.n + i) * e.t;
    float sum = 0;
    for (int j = 0; j < facts.keep; ++j) {
      const float value =
          fitted ? static_cast<float>(fitted[int64_t{j} * (e.t + e.d) + c]) : kept[j * e.d + c];
      sum = fmaf(x[j], value, sum);
    }
    const double y = e.y[(problem * e.n + i) * e.d + c], off = sum - y;
    difference += off * off;
    norm += y * y;
  }
  double* scratch = cuda::SharedMemory<double>();
  difference = cuda::BlockSum(difference, scratch);
  norm = cuda::BlockSum(norm, scratch);
  if (threadIdx.x == 0) e.errors[problem] = sqrt(difference) / max(sqrt(norm), 1e-300);
}

cuda::Shape ShapeOf(const ErrorBatch& e) {
  return {.grid = {static_cast<unsigned>(e.problems), 1, 1},
          .threads = kThreads,
          .shared_bytes = sizeof(double) * (kThreads / cuda::kWarp)};
}

}  // namespace

cuda::Launched MassErrors(const ErrorBatch& e, cuda::Stream stream) {
  return cuda::Launch(MassKernel, ShapeOf(e), stream, e);
}
cuda::Launched OutputErrors(const ErrorBatch& e, cuda::Stream stream) {
  return cuda::Launch(OutputKernel, ShapeOf(e), stream, e);
}

}  // namespace palimpsest::compaction
