#include <ATen/ATen.h>
#include <c10/core/GradMode.h>

#include "common/base/random.h"
#include "common/compaction/choose.h"
#include "common/compaction/matching_torch.h"
#include "common/compaction/solve_functions_torch.h"

namespace palimpsest::compaction {
namespace {

constexpr double kPadScore = -1e30;  // finite, so that no row is ever NaN
constexpr double kTinyTrace =
    1e-30;  // a window whose kept slots carry no mass at all falls back to w = 1, V' = V
constexpr double kKktTolerance = 1e-8;

at::Tensor Wide(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

at::Tensor CountMask(const std::vector<int>& counts, int64_t t) {
  std::vector<int64_t> wide(counts.begin(), counts.end());
  return at::arange(t).unsqueeze(0) < at::tensor(wide, at::kLong).unsqueeze(1);
}

at::Tensor MeanTrace(const at::Tensor& gram, const at::Tensor& counts) {
  return gram.diagonal(0, 1, 2).sum(1) / counts;
}

// Errors of a fit on the queries of `mask`: {mean |sum_j a_ij w_j - 1|, ||X V' - Y|| / ||Y||}.
std::pair<at::Tensor, at::Tensor> Errors(const at::Tensor& mass, const at::Tensor& fitted,
                                         const at::Tensor& y, const at::Tensor& mask) {
  const at::Tensor m = mask.to(at::kDouble);
  const at::Tensor rows = m.sum(1).clamp_min(1);
  const at::Tensor mass_error = ((mass.to(at::kDouble) - 1).abs() * m).sum(1) / rows;
  const at::Tensor wide = m.unsqueeze(2);
  const at::Tensor difference =
      ((fitted.to(at::kDouble) - y.to(at::kDouble)) * wide).square().sum({1, 2}).sqrt();
  const at::Tensor norm = (y.to(at::kDouble) * wide).square().sum({1, 2}).sqrt();
  return {mass_error, difference / norm.clamp_min(1e-300)};
}

// a_kept [B, n, t] and w [B, t] fp64 give the mass, x [B, n, t] and values [B, t, d] the output.
FitErrors Measure(const WindowBatch& window, const at::Tensor& a_kept, const at::Tensor& w,
                  const at::Tensor& x, const at::Tensor& values, const at::Tensor& y) {
  at::NoGradGuard no_grad;
  const at::Tensor served = at::bmm(a_kept.to(at::kDouble), w.unsqueeze(2)).squeeze(2);
  const at::Tensor fitted = at::bmm(x, values.to(x.scalar_type()));
  FitErrors errors;
  std::tie(errors.mass_error, errors.output_error) = Errors(served, fitted, y, window.query_mask);
  if (window.holdout_mask.defined()) {
    std::tie(errors.holdout_mass_error, errors.holdout_output_error) =
        Errors(served, fitted, y, window.holdout_mask);
  }
  return errors;
}

// log w_j of section 4.3 and the KKT residual, [B, t].
struct Mass {
  at::Tensor log_w, w, kkt_residual;
};
Mass FitMass(const at::Tensor& a_kept, const Numerics& numerics, const Kept& kept,
             const at::Tensor& counts) {
  const at::Tensor a = a_kept.to(at::kDouble);
  const at::Tensor gram = at::bmm(a.transpose(1, 2), a);
  const at::Tensor trace = MeanTrace(gram, counts);
  const at::Tensor mu = (numerics.mu * trace).clamp_min(kTinyTrace);
  const int64_t t = a.size(2);
  const at::Tensor h = gram + mu.view({-1, 1, 1}) * at::eye(t, gram.options());
  const at::Tensor c = a.sum(1) + mu.unsqueeze(1);
  const at::Tensor unit = trace.detach().clamp_min(kTinyTrace);
  const BoxWeights box =
      SolveBoxes(h, c, numerics.lower, numerics.upper, unit * (0.1 * kKktTolerance), kept.counts);
  return {.log_w = box.w.log(), .w = box.w, .kkt_residual = box.kkt_residual / unit};
}

// V' of section 4.4, [B, t, d].
at::Tensor FitValues(const at::Tensor& x32, const at::Tensor& y32, const at::Tensor& v_kept,
                     const Numerics& numerics, const Kept& kept, const at::Tensor& counts) {
  const at::Tensor x = x32.to(at::kDouble), y = y32.to(at::kDouble);
  const at::Tensor gram = at::bmm(x.transpose(1, 2), x);
  const at::Tensor lambda =
      (numerics.lambda * MeanTrace(gram, counts)).clamp_min(kTinyTrace).view({-1, 1, 1});
  const at::Tensor h = gram + lambda * at::eye(x.size(2), gram.options());
  return SolveSpd(h, at::bmm(x.transpose(1, 2), y) + lambda * v_kept.to(at::kDouble), kept.counts);
}

}  // namespace

LocalSoftmax ScoreWindow(const WindowBatch& window) {
  const at::Tensor k = Wide(window.keys), q = Wide(window.queries);
  at::Tensor scores =
      at::baddbmm(Wide(window.bias).unsqueeze(1), q, k.transpose(1, 2), 1.0, window.scale);
  scores = scores.masked_fill(window.slot_mask.logical_not().unsqueeze(1), kPadScore);
  return {.scores = scores, .a = at::softmax(scores, 2)};
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
                const Numerics& numerics, GradientMode gradient) {
  const bool full = gradient == GradientMode::kFull;
  const int64_t n = local.a.size(1), t = kept.index.size(1), d = window.values.size(2);
  const at::Tensor counts =
      at::tensor(std::vector<double>(kept.counts.begin(), kept.counts.end()), at::kDouble);
  const at::Tensor kept_mask = CountMask(kept.counts, t);
  const at::Tensor along_queries = kept.index.unsqueeze(1).expand({-1, n, -1});
  const at::Tensor v_kept = window.values.gather(1, kept.index.unsqueeze(2).expand({-1, -1, d}));
  const at::Tensor b_kept = Wide(window.bias).gather(1, kept.index);
  Fit fit;
  {
    c10::AutoGradMode grad(full && c10::GradMode::is_enabled());
    const at::Tensor query_mask = window.query_mask.unsqueeze(2);
    const at::Tensor a_all =
        local.a.gather(2, along_queries).masked_fill(kept_mask.logical_not().unsqueeze(1), 0);
    const Mass mass =
        FitMass(a_all.masked_fill(query_mask.logical_not(), 0), numerics, kept, counts);
    const at::Tensor log_w = mass.log_w.to(local.a.scalar_type());
    const at::Tensor logits = (local.scores.gather(2, along_queries) + log_w.unsqueeze(1))
                                  .masked_fill(kept_mask.logical_not().unsqueeze(1), kPadScore);
    const at::Tensor x =
        at::softmax(logits, 2).masked_fill(kept_mask.logical_not().unsqueeze(1), 0);
    const at::Tensor y = at::bmm(local.a, Wide(window.values));
    const at::Tensor values =
        FitValues(x.masked_fill(query_mask.logical_not(), 0),
                  y.masked_fill(query_mask.logical_not(), 0), v_kept, numerics, kept, counts);
    fit.bias = b_kept + log_w;
    fit.values = values.to(window.values.scalar_type());
    fit.kkt_residual = mass.kkt_residual.detach();
    if (window.measured) {
      static_cast<FitErrors&>(fit) = Measure(window, a_all, mass.w, x, values, y);
    }
  }
  if (!full) fit.bias = fit.bias.detach();
  if (gradient == GradientMode::kStraightThrough) fit.values = StraightThrough(fit.values, v_kept);
  if (gradient == GradientMode::kDetached) fit.values = fit.values.detach();
  return fit;
}

FitErrors MeasureEviction(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept) {
  at::NoGradGuard no_grad;
  const int64_t n = local.a.size(1), t = kept.index.size(1), d = window.values.size(2);
  const at::Tensor index = kept.index.unsqueeze(1).expand({-1, n, -1});
  const at::Tensor padding = CountMask(kept.counts, t).logical_not().unsqueeze(1);
  const at::Tensor a = local.a.gather(2, index).masked_fill(padding, 0);
  const at::Tensor scores = local.scores.gather(2, index).masked_fill(padding, kPadScore);
  const at::Tensor x = at::softmax(scores, 2).masked_fill(padding, 0);
  const at::Tensor values = window.values.gather(1, kept.index.unsqueeze(2).expand({-1, -1, d}));
  const at::Tensor w = at::ones({a.size(0), t}, at::kDouble);
  return Measure(window, a, w, x, values, at::bmm(local.a, Wide(window.values)));
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
