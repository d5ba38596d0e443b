#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include "common/compaction/box_solver.h"
#include "common/compaction/cholesky.h"
#include "common/compaction/solve_functions_torch.h"

namespace palimpsest::compaction {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::Variable;
using torch::autograd::variable_list;

// The leading n x n block of a row-major [t, t] matrix, optionally with the rows and columns of
// `skip` made unit.
std::vector<double> LeadingBlock(const double* a, int t, int n, const uint8_t* skip) {
  std::vector<double> block(static_cast<size_t>(n) * n);
  for (int i = 0; i < n; ++i) {
    for (int j = 0; j < n; ++j) {
      const bool out = skip && (skip[i] || skip[j]);
      block[static_cast<size_t>(i) * n + j] =
          out ? (i == j ? 1.0 : 0.0) : a[static_cast<size_t>(i) * t + j];
    }
  }
  return block;
}

struct BoxFunction : torch::autograd::Function<BoxFunction> {
  static variable_list forward(AutogradContext* ctx, const Variable& h, const Variable& c,
                               const Variable& lower, const Variable& upper,
                               const Variable& tolerance, std::vector<int> counts) {
    const int64_t problems = h.size(0);
    const int t = static_cast<int>(h.size(1));
    at::Tensor w = at::ones({problems, t}, h.options());
    at::Tensor bound = at::ones({problems, t}, h.options().dtype(at::kByte));
    at::Tensor residual = at::zeros({problems}, h.options());
    at::parallel_for(0, problems, 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int n = counts[b];
        const std::vector<double> block =
            LeadingBlock(h.data_ptr<double>() + b * t * t, t, n, nullptr);
        const BoxSolution s = SolveBox({.h = block,
                                        .c = std::span(c.data_ptr<double>() + b * t, n),
                                        .t = n,
                                        .lower = lower.data_ptr<double>()[b],
                                        .upper = upper.data_ptr<double>()[b],
                                        .tolerance = tolerance.data_ptr<double>()[b]});
        std::copy(s.w.begin(), s.w.end(), w.data_ptr<double>() + b * t);
        std::copy(s.at_bound.begin(), s.at_bound.end(), bound.data_ptr<uint8_t>() + b * t);
        residual.data_ptr<double>()[b] = s.kkt_residual;
      }
    });
    ctx->save_for_backward({h, w, bound});
    ctx->saved_data["counts"] = std::vector<int64_t>(counts.begin(), counts.end());
    ctx->mark_non_differentiable({residual});
    return {w, residual};
  }

  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor &h = saved[0], &w = saved[1], &bound = saved[2];
    const auto counts = ctx->saved_data["counts"].toIntVector();
    const int t = static_cast<int>(h.size(1));
    at::Tensor y = grads[0].contiguous().clone();
    at::parallel_for(0, h.size(0), 1, [&](int64_t begin, int64_t end) {
      for (int64_t b = begin; b < end; ++b) {
        const int n = static_cast<int>(counts[b]);
        const uint8_t* skip = bound.data_ptr<uint8_t>() + b * t;
        double* row = y.data_ptr<double>() + b * t;
        for (int i = 0; i < t; ++i) {
          if (i >= n || skip[i]) row[i] = 0;
        }
        std::vector<double> block = LeadingBlock(h.data_ptr<double>() + b * t * t, t, n, skip);
        SolveInPlace(block, n, std::span(row, n), 1);
      }
    });
    return {-y.unsqueeze(2) * w.unsqueeze(1), y, {}, {}, {}, {}};
  }
};

at::Tensor SolveAll(const at::Tensor& a, const at::Tensor& r, const std::vector<int64_t>& counts) {
  at::Tensor x = r.contiguous().clone();
  const int t = static_cast<int>(a.size(1)), d = static_cast<int>(r.size(2));
  at::parallel_for(0, a.size(0), 1, [&](int64_t begin, int64_t end) {
    for (int64_t b = begin; b < end; ++b) {
      const int n = static_cast<int>(counts[b]);
      double* rows = x.data_ptr<double>() + b * t * d;
      std::fill(rows + static_cast<int64_t>(n) * d, rows + static_cast<int64_t>(t) * d, 0.0);
      std::vector<double> block = LeadingBlock(a.data_ptr<double>() + b * t * t, t, n, nullptr);
      SolveInPlace(block, n, std::span(rows, static_cast<size_t>(n) * d), d);
    }
  });
  return x;
}

struct SpdFunction : torch::autograd::Function<SpdFunction> {
  static Variable forward(AutogradContext* ctx, const Variable& a, const Variable& r,
                          std::vector<int> counts) {
    const std::vector<int64_t> wide(counts.begin(), counts.end());
    at::Tensor x = SolveAll(a, r, wide);
    ctx->save_for_backward({a, x});
    ctx->saved_data["counts"] = wide;
    return x;
  }
  static variable_list backward(AutogradContext* ctx, variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor y = SolveAll(saved[0], grads[0], ctx->saved_data["counts"].toIntVector());
    return {-at::bmm(y, saved[1].transpose(1, 2)), y, {}};
  }
};

struct StraightThroughFunction : torch::autograd::Function<StraightThroughFunction> {
  static Variable forward(AutogradContext*, const Variable& value, const Variable&) {
    return value.clone();
  }
  static variable_list backward(AutogradContext*, variable_list grads) { return {{}, grads[0]}; }
};

}  // namespace

BoxWeights SolveBoxes(const at::Tensor& h, const at::Tensor& c, const at::Tensor& lower,
                      const at::Tensor& upper, const at::Tensor& tolerance,
                      const std::vector<int>& counts) {
  const variable_list out =
      BoxFunction::apply(h.contiguous(), c.contiguous(), lower, upper, tolerance, counts);
  return {.w = out[0], .kkt_residual = out[1]};
}

at::Tensor SolveSpd(const at::Tensor& a, const at::Tensor& r, const std::vector<int>& counts) {
  return SpdFunction::apply(a.contiguous(), r.contiguous(), counts);
}

at::Tensor StraightThrough(const at::Tensor& value, const at::Tensor& target) {
  return StraightThroughFunction::apply(value.detach(), target);
}

}  // namespace palimpsest::compaction
