#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "common/base/random.h"
#include "common/compaction/choose.h"
#include "common/compaction/matching_torch.h"
#include "common/compaction/window_fit.h"

namespace palimpsest::compaction {
namespace {

at::Tensor Wide(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}
// Contiguous, and without its history.
at::Tensor Plain(const at::Tensor& x) { return Wide(x.detach()).contiguous(); }

template <class F>
void Dispatch(const at::Tensor& x, const F& f) {
  if (x.scalar_type() == at::kDouble) return f(double{});
  f(float{});
}

template <class F>
void ForEachProblem(int64_t problems, const F& f) {
  at::parallel_for(0, problems, 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) f(b);
  });
}

// Element [b, 0, ..] of a contiguous tensor.
template <class T>
const T* At(const at::Tensor& x, int64_t b) {
  return x.const_data_ptr<T>() + b * x.stride(0);
}
template <class T>
T* Into(at::Tensor& x, int64_t b) {
  return x.data_ptr<T>() + b * x.stride(0);
}

// What the problems of a batch are scored from, contiguous and wide.
struct ScoreOperands {
  explicit ScoreOperands(const WindowBatch& window)
      : queries(Plain(window.queries)),
        keys(Plain(window.keys)),
        bias(Plain(window.bias)),
        real(window.slot_mask.contiguous()),
        scale(window.scale) {}

  template <class Real>
  ScoreTask<Real> Task(int64_t b) const {
    return {.queries = At<Real>(queries, b),
            .keys = At<Real>(keys, b),
            .bias = At<Real>(bias, b),
            .real = At<bool>(real, b),
            .n = static_cast<int>(queries.size(1)),
            .w = static_cast<int>(keys.size(1)),
            .d = static_cast<int>(keys.size(2)),
            .scale = static_cast<Real>(scale)};
  }

  at::Tensor queries, keys, bias, real;
  double scale;
};

// What they are fitted from, but for scores and a.
struct FitOperands {
  FitOperands(const WindowBatch& window, const Kept& k)
      : kept(k),
        values(Plain(window.values)),
        bias(Plain(window.bias)),
        fitted(window.query_mask.contiguous()),
        index(k.index.contiguous()),
        problems(values.size(0)) {
    if (window.holdout_mask.defined()) held_out = window.holdout_mask.contiguous();
  }

  template <class Real>
  FitTask<Real> Task(int64_t b) const {
    return {.values = At<Real>(values, b),
            .bias = At<Real>(bias, b),
            .fitted = At<bool>(fitted, b),
            .held_out = held_out.defined() ? At<bool>(held_out, b) : nullptr,
            .kept = At<int64_t>(index, b),
            .n = static_cast<int>(fitted.size(1)),
            .w = static_cast<int>(values.size(1)),
            .t = kept.counts[b],
            .d = static_cast<int>(values.size(2))};
  }
  template <class Real>
  FitTask<Real> Task(int64_t b, const LocalSoftmax& local) const {
    FitTask<Real> task = Task<Real>(b);
    task.scores = At<Real>(local.scores, b);
    task.a = At<Real>(local.a, b);
    return task;
  }
  template <class Real>
  static void Set(const Numerics& numerics, int64_t b, FitTask<Real>& task) {
    task.mu = *At<double>(numerics.mu, b);
    task.lambda = *At<double>(numerics.lambda, b);
    task.lower = *At<double>(numerics.lower, b);
    task.upper = *At<double>(numerics.upper, b);
  }

  const Kept& kept;
  at::Tensor values, bias, fitted, held_out, index;
  int64_t problems;
};

FitErrors EmptyErrors(const WindowBatch& window, int64_t problems) {
  FitErrors errors;
  if (!window.measured) return errors;
  const auto options = at::TensorOptions().dtype(at::kDouble);
  errors.mass_error = at::zeros({problems}, options);
  errors.output_error = at::zeros({problems}, options);
  if (!window.holdout_mask.defined()) return errors;
  errors.holdout_mass_error = at::zeros({problems}, options);
  errors.holdout_output_error = at::zeros({problems}, options);
  return errors;
}

void Store(const FitOutcome& outcome, int64_t b, FitErrors& errors) {
  if (!errors.mass_error.defined()) return;
  errors.mass_error.data_ptr<double>()[b] = outcome.fitted.mass;
  errors.output_error.data_ptr<double>()[b] = outcome.fitted.output;
  if (!errors.holdout_mass_error.defined()) return;
  errors.holdout_mass_error.data_ptr<double>()[b] = outcome.held_out.mass;
  errors.holdout_output_error.data_ptr<double>()[b] = outcome.held_out.output;
}

}  // namespace

LocalSoftmax ScoreWindow(const WindowBatch& window) {
  const ScoreOperands x(window);
  const int64_t problems = x.keys.size(0), n = x.queries.size(1), w = x.keys.size(1);
  LocalSoftmax local{.scores = at::empty({problems, n, w}, x.keys.options()),
                     .a = at::empty({problems, n, w}, x.keys.options())};
  Dispatch(x.keys, [&](auto type) {
    using Real = decltype(type);
    ForEachProblem(problems, [&](int64_t b) {
      ScoreTask<Real> task = x.Task<Real>(b);
      task.scores = Into<Real>(local.scores, b);
      task.a = Into<Real>(local.a, b);
      ScoreWindowRows(task);
    });
  });
  return local;
}

at::Tensor Received(const LocalSoftmax& local, const WindowBatch& window,
                    context::Chooser chooser) {
  at::NoGradGuard no_grad;
  const at::Tensor mask = window.query_mask.unsqueeze(2).to(local.a.scalar_type());
  const at::Tensor a = local.a * mask;
  const at::Tensor rows = mask.sum(1).clamp_min(1);
  at::Tensor received;
  if (chooser == context::Chooser::kMean) {
    received = a.sum(1) / rows;
  } else if (chooser == context::Chooser::kMax) {
    received = a.amax(1);
  } else if (chooser == context::Chooser::kAccumulated) {
    received = a.sum(1);
  } else {
    received = (a.square().sum(1) / rows).sqrt();
  }
  return received.to(at::kDouble).contiguous();
}

Kept ChooseByAttention(const LocalSoftmax& local, const WindowBatch& window,
                       context::Chooser chooser, const std::vector<int>& keep_counts) {
  at::NoGradGuard no_grad;
  const int64_t problems = local.a.size(0);
  const int w = static_cast<int>(local.a.size(2));
  at::Tensor importance, gram, rhs;
  if (chooser == context::Chooser::kOmp) {
    const at::Tensor a = local.a.to(at::kDouble) * window.query_mask.unsqueeze(2).to(at::kDouble);
    gram = at::bmm(a.transpose(1, 2), a).contiguous();
    rhs = a.sum(1).contiguous();
  } else {
    importance = Received(local, window, chooser);
  }
  const at::Tensor widths = window.slot_mask.sum(1).contiguous();
  Kept kept{.index = {}, .counts = keep_counts};
  const int t = *std::max_element(keep_counts.begin(), keep_counts.end());
  kept.index = at::zeros({problems, t}, at::kLong);
  for (int64_t b = 0; b < problems; ++b) {
    const int width = static_cast<int>(widths.data_ptr<int64_t>()[b]);
    std::vector<int32_t> chosen;
    if (importance.defined()) {
      chosen = LargestByImportance(
          std::span<const double>(importance.data_ptr<double>() + b * w, width), keep_counts[b]);
    } else {
      const at::Tensor g = gram[b].slice(0, 0, width).slice(1, 0, width).contiguous();
      chosen = MatchingPursuit(
          std::span<const double>(g.data_ptr<double>(), static_cast<size_t>(width) * width),
          std::span<const double>(rhs.data_ptr<double>() + b * w, width), width, keep_counts[b]);
    }
    std::copy(chosen.begin(), chosen.end(), kept.index.data_ptr<int64_t>() + b * t);
  }
  return kept;
}

Fit MatchWindow(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept,
                const Numerics& numerics) {
  const at::NoGradGuard no_grad;
  const FitOperands x(window, kept);
  const int64_t t = kept.index.size(1);
  Fit fit{EmptyErrors(window, x.problems), at::zeros({x.problems, t}, x.values.options()),
          at::zeros({x.problems, t, x.values.size(2)}, x.values.options()),
          at::zeros({x.problems}, at::kDouble)};
  Dispatch(x.values, [&](auto type) {
    using Real = decltype(type);
    ForEachProblem(x.problems, [&](int64_t b) {
      FitTask<Real> task = x.Task<Real>(b, local);
      x.Set(numerics, b, task);
      task.measured = window.measured;
      task.new_bias = Into<Real>(fit.bias, b);
      task.new_values = Into<Real>(fit.values, b);
      const FitOutcome outcome = FitWindowRows(task);
      fit.kkt_residual.data_ptr<double>()[b] = outcome.kkt_residual;
      Store(outcome, b, fit);
    });
  });
  fit.values = fit.values.to(window.values.scalar_type());
  return fit;
}

WindowGradients MatchGradients(const WindowBatch& window, const Kept& kept,
                               const Numerics& numerics, const at::Tensor& new_bias,
                               const at::Tensor& new_values) {
  const at::NoGradGuard no_grad;
  const ScoreOperands scored(window);
  const FitOperands x(window, kept);
  const at::Tensor d_bias = Plain(new_bias), d_values = Plain(new_values);
  WindowGradients out{.keys = at::empty_like(scored.keys),
                      .values = at::empty_like(x.values),
                      .bias = at::empty_like(x.bias),
                      .queries = at::empty_like(scored.queries)};
  Dispatch(x.values, [&](auto type) {
    using Real = decltype(type);
    ForEachProblem(x.problems, [&](int64_t b) {
      FitTask<Real> task = x.Task<Real>(b);
      x.Set(numerics, b, task);
      BackwardWindowRows<Real>(scored.Task<Real>(b), task,
                               {.new_bias = At<Real>(d_bias, b),
                                .new_values = At<Real>(d_values, b),
                                .queries = Into<Real>(out.queries, b),
                                .keys = Into<Real>(out.keys, b),
                                .values = Into<Real>(out.values, b),
                                .bias = Into<Real>(out.bias, b)});
    });
  });
  return out;
}

FitErrors MeasureEviction(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept) {
  const FitOperands x(window, kept);
  FitErrors errors = EmptyErrors(window, x.problems);
  Dispatch(x.values, [&](auto type) {
    using Real = decltype(type);
    ForEachProblem(x.problems, [&](int64_t b) {
      FitTask<Real> task = x.Task<Real>(b, local);
      task.measured = true;
      Store(MeasureKeptRows(task), b, errors);
    });
  });
  return errors;
}

at::Tensor RandomReferences(uint64_t seed, int layer, int head, int n, int d) {
  at::Tensor out = at::empty({n, d}, at::kFloat);
  float* data = out.data_ptr<float>();
  for (int i = 0; i < n; ++i) {
    RandomStream stream(MixSeed({seed, Meaning("reference.random"), static_cast<uint64_t>(layer),
                                 static_cast<uint64_t>(head), static_cast<uint64_t>(i)}));
    for (int j = 0; j < d; ++j)
      data[static_cast<int64_t>(i) * d + j] = static_cast<float>(stream.Normal());
  }
  return out;
}

}  // namespace palimpsest::compaction
