#include <algorithm>

#include "common/compaction/cuda/errors.h"
#include "common/compaction/cuda/gram.h"
#include "common/compaction/cuda/match.h"
#include "common/compaction/cuda/solve.h"
#include "common/cuda/device.cuh"

namespace palimpsest::compaction {
namespace {

constexpr int kThreads = 128;

struct Workspace {
  float *scores, *stats, *importance, *kept_scores, *a, *kept_values, *y;
  double *gram, *system, *log_weights;
  int64_t bytes = 0;
};

template <class T>
T* Take(char* base, int64_t count, int64_t& bytes) {
  T* begin = base ? reinterpret_cast<T*>(base + bytes) : nullptr;
  bytes += (count * static_cast<int64_t>(sizeof(T)) + 255) / 256 * 256;
  return begin;
}

Workspace Plan(char* base, int64_t problems, int64_t w, int64_t n, int64_t t, int64_t d) {
  Workspace s;
  const int64_t rows = problems * n, kept = problems * t;
  s.scores = Take<float>(base, rows * w, s.bytes);
  s.stats = Take<float>(base, rows * 2, s.bytes);
  s.importance = Take<float>(base, problems * w, s.bytes);
  s.kept_scores = Take<float>(base, rows * t, s.bytes);
  s.a = Take<float>(base, rows * t, s.bytes);
  s.kept_values = Take<float>(base, kept * d, s.bytes);
  s.y = Take<float>(base, rows * d, s.bytes);
  s.gram = Take<double>(base, kept * (t + 1), s.bytes);
  s.system = Take<double>(base, kept * (t + d), s.bytes);
  s.log_weights = Take<double>(base, kept, s.bytes);
  return s;
}

// Grid: kept slots, problems.
template <class Stored>
__global__ void __launch_bounds__(kThreads)
    FinishKernel(EventBatch<Stored> e, const double* system, const double* log_weights) {
  const DeviceWindows<Stored>& x = e.windows;
  const int64_t problem = blockIdx.y, at = problem * x.t + blockIdx.x;
  const int keep = x.heads[problem].keep;
  if (static_cast<int>(blockIdx.x) >= keep) return;
  const double* solved = system + at * (x.t + x.d) + keep;
  for (int c = threadIdx.x; c < x.d; c += kThreads)
    cuda::Store(static_cast<float>(solved[c]), e.values + at * x.d + c);
  if (threadIdx.x > 0) return;
  const WindowHead<Stored>& head = x.windows[problem];
  const int slot = head.first + e.kept[at];
  const int64_t row = int64_t{head.table[slot / x.page_slots]} * x.page_slots + slot % x.page_slots;
  e.bias[at] = head.bias[row * x.bias_stride] + static_cast<float>(log_weights[at]);
}

// The kept slots' weights: scores to log w.
template <class Stored>
cuda::Launched FitMass(const EventBatch<Stored>& e, const Workspace& s, cuda::Stream stream) {
  const DeviceWindows<Stored>& x = e.windows;
  const cuda::Launched gram =
      Gram({.heads = x.heads, .x = s.a, .out = s.gram, .problems = x.problems, .n = x.n, .t = x.t},
           stream);
  if (!gram.ok()) return gram;
  return SolveWeights({.heads = x.heads,
                       .gram = s.gram,
                       .scratch = s.system,
                       .log_weights = s.log_weights,
                       .kkt_residuals = e.kkt_residuals,
                       .solves = e.solves,
                       .problems = x.problems,
                       .t = x.t},
                      stream);
}

// Their values, behind the columns of `system`; what `a` held is overwritten.
template <class Stored>
cuda::Launched FitValues(const EventBatch<Stored>& e, const Workspace& s, cuda::Stream stream) {
  const DeviceWindows<Stored>& x = e.windows;
  if (auto outputs = Outputs(x, s.scores, s.stats, s.y, stream); !outputs.ok()) return outputs;
  const cuda::Launched reweighed = Reweigh({.heads = x.heads,
                                            .scores = s.kept_scores,
                                            .log_weights = s.log_weights,
                                            .x = s.a,
                                            .problems = x.problems,
                                            .n = x.n,
                                            .t = x.t},
                                           stream);
  if (!reweighed.ok()) return reweighed;
  const cuda::Launched gram = Gram({.heads = x.heads,
                                    .x = s.a,
                                    .y = s.y,
                                    .out = s.system,
                                    .problems = x.problems,
                                    .n = x.n,
                                    .t = x.t,
                                    .c = x.d},
                                   stream);
  if (!gram.ok()) return gram;
  return SolveValues({.heads = x.heads,
                      .gram = s.system,
                      .kept = s.kept_values,
                      .problems = x.problems,
                      .t = x.t,
                      .d = x.d},
                     stream);
}

template <class Stored>
ErrorBatch ErrorsOf(const EventBatch<Stored>& e, const Workspace& s, bool fitted) {
  const DeviceWindows<Stored>& x = e.windows;
  return {.heads = x.heads,
          .weights = s.a,
          .log_weights = fitted ? s.log_weights : nullptr,
          .fitted = fitted ? s.system : nullptr,
          .kept = s.kept_values,
          .y = s.y,
          .problems = x.problems,
          .n = x.n,
          .t = x.t,
          .d = x.d};
}

// To be called while `a` holds a.
template <class Stored>
cuda::Launched MeasureMass(const EventBatch<Stored>& e, const Workspace& s, bool fitted,
                           cuda::Stream stream) {
  if (e.mass_errors == nullptr) return {};
  ErrorBatch errors = ErrorsOf(e, s, fitted);
  errors.errors = e.mass_errors;
  return MassErrors(errors, stream);
}

// To be called once `a` holds x, and y is there.
template <class Stored>
cuda::Launched MeasureOutput(const EventBatch<Stored>& e, const Workspace& s, bool fitted,
                             cuda::Stream stream) {
  if (e.output_errors == nullptr) return {};
  ErrorBatch errors = ErrorsOf(e, s, fitted);
  errors.errors = e.output_errors;
  return OutputErrors(errors, stream);
}

// Up to the kept slots' scores, a and values.
template <class Stored>
cuda::Launched ChooseAndGather(const EventBatch<Stored>& e, const Workspace& s,
                               cuda::Stream stream) {
  const DeviceWindows<Stored>& x = e.windows;
  if (auto scored = Score(x, s.scores, stream); !scored.ok()) return scored;
  if (auto summed = Normalise(x, s.scores, s.stats, stream); !summed.ok()) return summed;
  if (!e.forced) {
    const auto chosen = Choose(x, s.scores, s.stats, s.importance, e.kept, stream);
    if (!chosen.ok()) return chosen;
  }
  return Gather(x, s.scores, s.stats,
                {.index = e.kept, .scores = s.kept_scores, .a = s.a, .values = s.kept_values},
                stream);
}

template <class Stored>
Workspace WorkspaceOf(const EventBatch<Stored>& e) {
  const DeviceWindows<Stored>& x = e.windows;
  return Plan(static_cast<char*>(e.workspace), x.problems, x.w, x.n, x.t, x.d);
}

}  // namespace

int64_t EventWorkspaceBytes(int problems, int w, int n, int t, int d) {
  return Plan(nullptr, problems, w, n, t, d).bytes;
}

template <class Stored>
cuda::Launched MatchEvents(const EventBatch<Stored>& e, cuda::Stream stream) {
  const DeviceWindows<Stored>& x = e.windows;
  const Workspace s = WorkspaceOf(e);
  if (auto gathered = ChooseAndGather(e, s, stream); !gathered.ok()) return gathered;
  if (auto mass = FitMass(e, s, stream); !mass.ok()) return mass;
  if (auto measured = MeasureMass(e, s, true, stream); !measured.ok()) return measured;
  if (auto values = FitValues(e, s, stream); !values.ok()) return values;
  if (auto measured = MeasureOutput(e, s, true, stream); !measured.ok()) return measured;
  return cuda::Launch(FinishKernel<Stored>,
                      {.grid = {static_cast<unsigned>(x.t), static_cast<unsigned>(x.problems), 1},
                       .threads = kThreads},
                      stream, e, s.system, s.log_weights);
}

template <class Stored>
cuda::Launched EvictSlots(const EventBatch<Stored>& e, cuda::Stream stream) {
  const DeviceWindows<Stored>& x = e.windows;
  const Workspace s = WorkspaceOf(e);
  if (auto gathered = ChooseAndGather(e, s, stream); !gathered.ok()) return gathered;
  if (auto measured = MeasureMass(e, s, false, stream); !measured.ok()) return measured;
  if (e.output_errors == nullptr) return {};
  if (auto outputs = Outputs(x, s.scores, s.stats, s.y, stream); !outputs.ok()) return outputs;
  const cuda::Launched weighed = Reweigh({.heads = x.heads,
                                          .scores = s.kept_scores,
                                          .x = s.a,
                                          .problems = x.problems,
                                          .n = x.n,
                                          .t = x.t},
                                         stream);
  return weighed.ok() ? MeasureOutput(e, s, false, stream) : weighed;
}

template cuda::Launched MatchEvents(const EventBatch<float>&, cuda::Stream);
template cuda::Launched MatchEvents(const EventBatch<BFloat16>&, cuda::Stream);
template cuda::Launched EvictSlots(const EventBatch<float>&, cuda::Stream);
template cuda::Launched EvictSlots(const EventBatch<BFloat16>&, cuda::Stream);

}  // namespace palimpsest::compaction
