#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/GradMode.h>

#include "common/base/random.h"
#include "common/compaction/choose.h"
#include "common/compaction/match_with_grad_torch.h"
#include "common/compaction/matching_torch.h"
#include "common/compaction/solve_functions_torch.h"
#include "common/compaction/window_fit.h"

namespace palimpsest::compaction {
namespace {

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

// What the problems of a batch are fitted from, contiguous and wide.
struct Operands {
  Operands(const LocalSoftmax& local, const WindowBatch& window, const Kept& k)
      : kept(k),
        scores(local.scores.contiguous()),
        a(local.a.contiguous()),
        values(Wide(window.values).detach().contiguous()),
        bias(Wide(window.bias).detach().contiguous()),
        fitted(window.query_mask.contiguous()),
        index(k.index.contiguous()),
        problems(scores.size(0)) {
    if (window.holdout_mask.defined()) held_out = window.holdout_mask.contiguous();
  }

  template <class Real>
  FitTask<Real> Task(int64_t b) const {
    return {.scores = At<Real>(scores, b),
            .a = At<Real>(a, b),
            .values = At<Real>(values, b),
            .bias = At<Real>(bias, b),
            .fitted = At<bool>(fitted, b),
            .held_out = held_out.defined() ? At<bool>(held_out, b) : nullptr,
            .kept = At<int64_t>(index, b),
            .n = static_cast<int>(scores.size(1)),
            .w = static_cast<int>(scores.size(2)),
            .t = kept.counts[b],
            .d = static_cast<int>(values.size(2))};
  }

  const Kept& kept;
  at::Tensor scores, a, values, bias, fitted, held_out, index;
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

Fit FitWithoutGrad(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept,
                   const Numerics& numerics) {
  const at::NoGradGuard no_grad;
  const Operands x(local, window, kept);
  const int64_t t = kept.index.size(1);
  Fit fit{EmptyErrors(window, x.problems), at::zeros({x.problems, t}, x.scores.options()),
          at::zeros({x.problems, t, x.values.size(2)}, x.scores.options()),
          at::zeros({x.problems}, at::kDouble)};
  Dispatch(x.scores, [&](auto type) {
    using Real = decltype(type);
    ForEachProblem(x.problems, [&](int64_t b) {
      FitTask<Real> task = x.Task<Real>(b);
      task.mu = *At<double>(numerics.mu, b);
      task.lambda = *At<double>(numerics.lambda, b);
      task.lower = *At<double>(numerics.lower, b);
      task.upper = *At<double>(numerics.upper, b);
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

}  // namespace

LocalSoftmax ScoreWindow(const WindowBatch& window) {
  if (c10::GradMode::is_enabled()) return ScoreWithGrad(window);
  const at::Tensor q = Wide(window.queries).contiguous(), k = Wide(window.keys).contiguous(),
                   bias = Wide(window.bias).contiguous(), real = window.slot_mask.contiguous();
  const int64_t n = q.size(1), w = k.size(1), d = k.size(2);
  LocalSoftmax local{.scores = at::empty({k.size(0), n, w}, k.options()),
                     .a = at::empty({k.size(0), n, w}, k.options())};
  Dispatch(k, [&](auto type) {
    using Real = decltype(type);
    ForEachProblem(k.size(0), [&](int64_t b) {
      ScoreWindowRows<Real>({.queries = At<Real>(q, b),
                             .keys = At<Real>(k, b),
                             .bias = At<Real>(bias, b),
                             .real = At<bool>(real, b),
                             .n = static_cast<int>(n),
                             .w = static_cast<int>(w),
                             .d = static_cast<int>(d),
                             .scale = static_cast<Real>(window.scale),
                             .scores = Into<Real>(local.scores, b),
                             .a = Into<Real>(local.a, b)});
    });
  });
  return local;
}

Kept ChooseByAttention(const LocalSoftmax& local, const WindowBatch& window,
                       context::Chooser chooser, const std::vector<int>& keep_counts) {
  at::NoGradGuard no_grad;
  const int64_t problems = local.a.size(0);
  const int w = static_cast<int>(local.a.size(2));
  const at::Tensor mask = window.query_mask.unsqueeze(2).to(local.a.scalar_type());
  const at::Tensor a = local.a * mask;
  const at::Tensor rows = mask.sum(1).clamp_min(1);
  at::Tensor importance, gram, rhs;
  if (chooser == context::Chooser::kOmp) {
    const at::Tensor wide = a.to(at::kDouble);
    gram = at::bmm(wide.transpose(1, 2), wide).contiguous();
    rhs = wide.sum(1).contiguous();
  } else if (chooser == context::Chooser::kMean) {
    importance = a.sum(1) / rows;
  } else if (chooser == context::Chooser::kMax) {
    importance = a.amax(1);
  } else {
    importance = (a.square().sum(1) / rows).sqrt();
  }
  if (importance.defined()) importance = importance.to(at::kDouble).contiguous();
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
                const Numerics& numerics, GradientMode gradient) {
  if (gradient == GradientMode::kFull && c10::GradMode::is_enabled())
    return MatchWithGrad(local, window, kept, numerics);
  Fit fit = FitWithoutGrad(local, window, kept, numerics);
  if (gradient == GradientMode::kStraightThrough && c10::GradMode::is_enabled()) {
    const int64_t d = window.values.size(2);
    fit.values = StraightThrough(
        fit.values, window.values.gather(1, kept.index.unsqueeze(2).expand({-1, -1, d})));
  }
  return fit;
}

FitErrors MeasureEviction(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept) {
  const Operands x(local, window, kept);
  FitErrors errors = EmptyErrors(window, x.problems);
  Dispatch(x.scores, [&](auto type) {
    using Real = decltype(type);
    ForEachProblem(x.problems, [&](int64_t b) {
      FitTask<Real> task = x.Task<Real>(b);
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
