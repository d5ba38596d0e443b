#include <cmath>

#include "common/compaction/cuda/cholesky.cuh"
#include "common/compaction/cuda/solve.h"

namespace palimpsest::compaction {
namespace {

constexpr int kThreads = 256;
constexpr int kWarps = kThreads / cuda::kWarp;
constexpr int kNewtonSolves = 20;  // default parameters need 2 to 8
constexpr int kActiveSetSolvesPerWeight = 20;
constexpr int kMaxHalvings = 40;
constexpr double kSufficientDecrease = 1e-4;
constexpr double kTinyTrace = 1e-30;  // no mass at all: w = 1, V' = V
constexpr double kTolerance = 1e-9;   // of the mean diagonal; 1e-8 is to hold

// argmin 1/2 w'Hw - c'w in [lower, upper]^t of one block of threads: projected Newton steps on the
// free weights and, where 20 do not do, a walk along the faces, exactly as SolveBox of
// box_solver.h. Vectors are in shared memory; scalars are alike in all threads.
struct Box {
  const double* gram;  // [t, ld]: H less mu on its diagonal; column `count` holds c less mu
  int64_t ld;
  int t, rhs;  // rhs: the column of c
  double mu, lower, upper, tolerance;
  System system;
  double *w, *gradient, *trial, *trial_gradient, *direction;  // [t]
  int* at_bound;                                              // [t]
  double *scratch, *tile;                                     // [kWarps], [kTileDoubles]
  int solves = 0;
  double value = 0, residual = 0;
};

__device__ double H(const Box& b, int i, int j) {
  return b.gram[i * b.ld + j] + (i == j ? b.mu : 0.0);
}
__device__ double C(const Box& b, int i) { return b.gram[i * b.ld + b.rhs] + b.mu; }

// to = H at - c; returns the objective.
__device__ double Evaluate(const Box& b, const double* at, double* to) {
  __syncthreads();
  double value = 0;
  for (int i = threadIdx.x; i < b.t; i += kThreads) {
    double sum = 0;
    for (int j = 0; j < b.t; ++j) sum += H(b, j, i) * at[j];  // symmetric: neighbours side by side
    const double c = C(b, i);
    value += at[i] * (0.5 * sum - c);
    to[i] = sum - c;
  }
  return cuda::BlockSum(value, b.scratch);
}

// What a bound holds, and the KKT residual.
__device__ void MarkBounds(Box& b) {
  double residual = 0;
  for (int i = threadIdx.x; i < b.t; i += kThreads) {
    const bool low = b.w[i] <= b.lower && b.gradient[i] >= 0;
    const bool high = b.w[i] >= b.upper && b.gradient[i] <= 0;
    b.at_bound[i] = low || high;
    if (!b.at_bound[i]) residual = max(residual, fabs(b.gradient[i]));
  }
  b.residual = cuda::BlockMax(residual, b.scratch);
  __syncthreads();
}

// direction = the Newton step of the free weights, 0 elsewhere: what is held stands in the system
// as a row of the identity.
__device__ void Newton(Box& b) {
  __syncthreads();
  double trace = 0, free = 0;
  for (int i = threadIdx.x; i < b.t; i += kThreads) {
    if (!b.at_bound[i]) trace += H(b, i, i), free += 1;
  }
  trace = cuda::BlockSum(trace, b.scratch);
  free = cuda::BlockSum(free, b.scratch);
  for (int i = threadIdx.x; i < b.t; i += kThreads) {
    for (int j = 0; j <= i; ++j) {
      const bool both = !b.at_bound[i] && !b.at_bound[j];
      b.system.At(j, i) = both ? H(b, j, i) : (i == j ? 1.0 : 0.0);
    }
    b.system.At(i, b.t) = b.at_bound[i] ? 0.0 : -b.gradient[i];
  }
  FactorAndForward(b.system, 1e-15 * trace / max(free, 1.0) + 1e-300, b.tile);
  BackwardOne(b.system, b.direction);
  ++b.solves;
}

__device__ double Clamp(double x, const Box& b) { return min(max(x, b.lower), b.upper); }

// Halves the step along the projected path until the objective has fallen enough; returns whether w
// moved.
__device__ bool Search(Box& b) {
  double step = 1;
  for (int halving = 0; halving < kMaxHalvings; ++halving, step *= 0.5) {
    double slope = 0, moved = 0;
    for (int i = threadIdx.x; i < b.t; i += kThreads) {
      b.trial[i] = Clamp(b.w[i] + step * b.direction[i], b);
      slope += b.gradient[i] * (b.trial[i] - b.w[i]);
      if (b.trial[i] != b.w[i]) moved = 1;
    }
    slope = cuda::BlockSum(slope, b.scratch);
    moved = cuda::BlockMax(moved, b.scratch);
    const double value = Evaluate(b, b.trial, b.trial_gradient);
    // The last term allows for rounding of the two objectives once the steps are tiny.
    if (value <= b.value + kSufficientDecrease * slope + 1e-15 * fabs(b.value)) {
      for (int i = threadIdx.x; i < b.t; i += kThreads)
        b.w[i] = b.trial[i], b.gradient[i] = b.trial_gradient[i];
      b.value = value;
      return moved > 0;
    }
  }
  return false;
}

// Along the direction up to the first bound, which then holds; returns whether the whole step
// fitted. Rare: one thread.
__device__ bool StepToFirstBound(Box& b) {
  __syncthreads();
  if (threadIdx.x == 0) {
    double step = 1;
    int blocking = -1;
    for (int i = 0; i < b.t; ++i) {
      if (b.at_bound[i] || b.direction[i] == 0) continue;
      const double room = (b.direction[i] > 0 ? b.upper : b.lower) - b.w[i];
      if (room / b.direction[i] < step) step = room / b.direction[i], blocking = i;
    }
    for (int i = 0; i < b.t; ++i) b.w[i] = Clamp(b.w[i] + step * b.direction[i], b);
    if (blocking >= 0) {
      b.w[blocking] = b.direction[blocking] > 0 ? b.upper : b.lower;
      b.at_bound[blocking] = 1;
    }
    b.scratch[0] = blocking;
  }
  __syncthreads();
  return b.scratch[0] < 0;
}

// Lets go of the bound that pulls most, if one does.
__device__ bool LetGo(Box& b) {
  __syncthreads();
  if (threadIdx.x == 0) {
    int worst = -1;
    double most = b.tolerance;
    for (int i = 0; i < b.t; ++i) {
      const double pull = b.w[i] <= b.lower ? -b.gradient[i] : b.gradient[i];
      if (b.at_bound[i] && pull > most) most = pull, worst = i;
    }
    if (worst >= 0) b.at_bound[worst] = 0;
    b.scratch[0] = worst;
  }
  __syncthreads();
  return b.scratch[0] >= 0;
}

__device__ void WalkFaces(Box& b) {
  Evaluate(b, b.w, b.gradient);
  MarkBounds(b);
  const int limit = b.solves + kActiveSetSolvesPerWeight * b.t;
  while (b.solves < limit) {
    Newton(b);
    const bool optimum = StepToFirstBound(b);
    Evaluate(b, b.w, b.gradient);
    if (optimum && !LetGo(b)) break;
  }
  MarkBounds(b);
}

__device__ void Minimise(Box& b) {
  for (int i = threadIdx.x; i < b.t; i += kThreads) b.w[i] = Clamp(1, b);
  b.value = Evaluate(b, b.w, b.gradient);
  MarkBounds(b);
  while (b.residual > b.tolerance && b.solves < kNewtonSolves) {
    Newton(b);
    const bool moved = Search(b);
    const double before = b.residual;
    MarkBounds(b);
    if (!moved && b.residual >= before) break;  // rounding is all that is left
  }
  if (b.residual > b.tolerance && b.solves == kNewtonSolves) WalkFaces(b);
}

// The mean diagonal of the first `count` rows of a [.., ld].
__device__ double MeanDiagonal(const double* a, int64_t ld, int count, double* scratch) {
  double sum = 0;
  for (int i = threadIdx.x; i < count; i += kThreads) sum += a[i * ld + i];
  return cuda::BlockSum(sum, scratch) / count;
}

constexpr size_t SolveBytes(int vectors, int t) {
  return sizeof(double) * (kWarps + kTileDoubles + static_cast<size_t>(vectors) * t) +
         sizeof(int) * t;
}

__global__ void __launch_bounds__(kThreads) WeightKernel(WeightBatch x) {
  const int64_t problem = blockIdx.x;
  const HeadFacts& facts = x.heads[problem];
  const int t = facts.keep;
  double* shared = cuda::SharedMemory<double>();
  double *tile = shared + kWarps, *vectors = tile + kTileDoubles;
  Box b{.gram = x.gram + problem * x.t * (x.t + 1),
        .ld = x.t + 1,
        .t = t,
        .rhs = x.t,
        .mu = 0,
        .lower = exp(facts.log_lower),
        .upper = exp(facts.log_upper),
        .tolerance = 0,
        .system = {x.scratch + problem * SystemDoubles(x.t, 1), x.t + 1, t, t + 1},
        .w = vectors,
        .gradient = vectors + x.t,
        .trial = vectors + 2 * x.t,
        .trial_gradient = vectors + 3 * x.t,
        .direction = vectors + 4 * x.t,
        .at_bound = reinterpret_cast<int*>(vectors + 5 * x.t),
        .scratch = shared,
        .tile = tile};
  const double trace = t > 0 ? MeanDiagonal(b.gram, b.ld, t, shared) : 0.0;
  const double unit = max(trace, kTinyTrace);
  b.mu = max(facts.mu * trace, kTinyTrace);
  b.tolerance = kTolerance * unit;
  Minimise(b);
  __syncthreads();
  for (int i = threadIdx.x; i < x.t; i += kThreads)
    x.log_weights[problem * x.t + i] = i < t ? log(b.w[i]) : 0.0;
  if (threadIdx.x > 0) return;
  x.kkt_residuals[problem] = b.residual / unit;
  x.solves[problem] = b.solves;
}

__global__ void __launch_bounds__(kThreads) ValueKernel(ValueBatch x) {
  const int64_t problem = blockIdx.x;
  const HeadFacts& facts = x.heads[problem];
  const int t = facts.keep;
  if (t == 0) return;
  double* shared = cuda::SharedMemory<double>();
  const int64_t ld = x.t + x.d;
  double* gram = x.gram + problem * x.t * ld;
  const double trace = MeanDiagonal(gram, ld, t, shared);
  const double lambda = max(facts.lambda * trace, kTinyTrace);
  // The right-hand sides come to stand right behind the kept slots' columns.
  const int channel = threadIdx.x;
  for (int j = 0; j < t; ++j) {
    double* row = gram + j * ld;
    __syncthreads();
    if (channel == 0) row[j] += lambda;
    const double old = channel < x.d ? row[x.t + channel] : 0.0;
    __syncthreads();
    if (channel < x.d)
      row[t + channel] = old + lambda * x.kept[(problem * x.t + j) * x.d + channel];
  }
  const System system{gram, ld, t, t + x.d};
  FactorAndForward(system, 1e-15 * (trace + lambda), shared + kWarps);
  Backward(system, shared + kWarps);
}

cuda::Launched CheckKept(int t) {
  if (t >= 1 && t <= kMostKept) return {};
  return {"t=" + std::to_string(t) + " is not in [1, " + std::to_string(kMostKept) + "]"};
}

}  // namespace

cuda::Launched SolveWeights(const WeightBatch& x, cuda::Stream stream) {
  if (cuda::Launched refused = CheckKept(x.t); !refused.ok()) return refused;
  return cuda::Launch(WeightKernel,
                      {.grid = {static_cast<unsigned>(x.problems), 1, 1},
                       .threads = kThreads,
                       .shared_bytes = SolveBytes(5, x.t)},
                      stream, x);
}

cuda::Launched SolveValues(const ValueBatch& x, cuda::Stream stream) {
  if (cuda::Launched refused = CheckKept(x.t); !refused.ok()) return refused;
  if (x.d < 1 || x.d > kThreads)
    return {"d=" + std::to_string(x.d) + " is not in [1, " + std::to_string(kThreads) + "]"};
  return cuda::Launch(ValueKernel,
                      {.grid = {static_cast<unsigned>(x.problems), 1, 1},
                       .threads = kThreads,
                       .shared_bytes = SolveBytes(0, 0)},
                      stream, x);
}

}  // namespace palimpsest::compaction
