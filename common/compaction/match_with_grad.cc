#include <ATen/ATen.h>

#include "common/compaction/match_with_grad_torch.h"
#include "common/compaction/solve_functions_torch.h"
#include "common/compaction/window_fit.h"

namespace palimpsest::compaction {
namespace {

at::Tensor CountMask(const std::vector<int>& counts, int64_t t) {
  std::vector<int64_t> wide(counts.begin(), counts.end());
  return at::arange(t).unsqueeze(0) < at::tensor(wide, at::kLong).unsqueeze(1);
}

at::Tensor MeanTrace(const at::Tensor& gram, const at::Tensor& counts) {
  return gram.diagonal(0, 1, 2).sum(1) / counts;
}

// log w_j of section 4.3 and the KKT residual, [B, t].
struct Mass {
  at::Tensor log_w, kkt_residual;
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
  return {.log_w = box.w.log(), .kkt_residual = box.kkt_residual / unit};
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

at::Tensor Wide(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

LocalSoftmax ScoreWithGrad(const WindowBatch& window) {
  const at::Tensor k = Wide(window.keys), q = Wide(window.queries);
  at::Tensor scores =
      at::baddbmm(Wide(window.bias).unsqueeze(1), q, k.transpose(1, 2), 1.0, window.scale);
  scores = scores.masked_fill(window.slot_mask.logical_not().unsqueeze(1), kPadScore);
  return {.scores = scores, .a = at::softmax(scores, 2)};
}

Fit MatchWithGrad(const LocalSoftmax& local, const WindowBatch& window, const Kept& kept,
                  const Numerics& numerics) {
  const int64_t n = local.a.size(1), t = kept.index.size(1), d = window.values.size(2);
  const at::Tensor counts =
      at::tensor(std::vector<double>(kept.counts.begin(), kept.counts.end()), at::kDouble);
  const at::Tensor padding = CountMask(kept.counts, t).logical_not().unsqueeze(1);
  const at::Tensor along_queries = kept.index.unsqueeze(1).expand({-1, n, -1});
  const at::Tensor not_fitted = window.query_mask.unsqueeze(2).logical_not();
  const at::Tensor a = local.a.gather(2, along_queries).masked_fill(padding, 0);
  const Mass mass = FitMass(a.masked_fill(not_fitted, 0), numerics, kept, counts);
  const at::Tensor log_w = mass.log_w.to(local.a.scalar_type());
  const at::Tensor logits =
      (local.scores.gather(2, along_queries) + log_w.unsqueeze(1)).masked_fill(padding, kPadScore);
  const at::Tensor x = at::softmax(logits, 2).masked_fill(padding, 0);
  const at::Tensor y = at::bmm(local.a, Wide(window.values));
  const at::Tensor v_kept = window.values.gather(1, kept.index.unsqueeze(2).expand({-1, -1, d}));
  const at::Tensor values = FitValues(x.masked_fill(not_fitted, 0), y.masked_fill(not_fitted, 0),
                                      v_kept, numerics, kept, counts);
  Fit fit;
  fit.bias = Wide(window.bias).gather(1, kept.index) + log_w;
  fit.values = values.to(window.values.scalar_type());
  fit.kkt_residual = mass.kkt_residual.detach();
  return fit;
}

}  // namespace palimpsest::compaction
