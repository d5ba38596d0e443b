#include <ATen/ATen.h>
#include <ATen/Dispatch.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>

#include <cstring>

#include "common/attention/rows_torch.h"

namespace palimpsest::attention {
namespace {

constexpr int64_t kRowsPerTask = 256;

struct GatherFunction : torch::autograd::Function<GatherFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& a,
                            const at::Tensor& b, const at::Tensor& index) {
    ctx->save_for_backward({index});
    ctx->saved_data["rows_a"] = a.size(0);
    ctx->saved_data["rows_b"] = b.size(0);
    ctx->saved_data["dtype"] = static_cast<int64_t>(a.scalar_type());
    return GatherRows(a, b, index);
  }
  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const at::Tensor index = ctx->get_saved_variables()[0];
    const at::Tensor rows = Wide(grads[0]).contiguous();
    const int64_t c = rows.size(-1);
    const auto dtype = static_cast<at::ScalarType>(ctx->saved_data["dtype"].toInt());
    at::Tensor a = at::zeros({ctx->saved_data["rows_a"].toInt(), c}, rows.options());
    at::Tensor b = at::zeros({ctx->saved_data["rows_b"].toInt(), c}, rows.options());
    ScatterAddRows(rows.view({-1, c}), index, a, b);
    return {a.to(dtype), b.to(dtype), {}};
  }
};

}  // namespace

at::Tensor Wide(const at::Tensor& x) {
  return x.scalar_type() == at::kDouble ? x : x.to(at::kFloat);
}

at::Tensor GatherRows(const at::Tensor& a_in, const at::Tensor& b_in, const at::Tensor& index_in) {
  const at::Tensor a = a_in.contiguous(), b = b_in.contiguous(), index = index_in.contiguous();
  std::vector<int64_t> shape = index.sizes().vec();
  shape.push_back(a.size(1));
  at::Tensor out = at::empty(shape, a.options());
  const int64_t rows_a = a.size(0);
  const size_t bytes = static_cast<size_t>(a.size(1)) * a.element_size();
  const char* from_a = static_cast<const char*>(a.const_data_ptr());
  const char* from_b = static_cast<const char*>(b.const_data_ptr());
  char* to = static_cast<char*>(out.data_ptr());
  const int64_t* idx = index.const_data_ptr<int64_t>();
  at::parallel_for(0, index.numel(), kRowsPerTask, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      if (idx[i] < 0) {
        std::memset(to + i * bytes, 0, bytes);
      } else {
        std::memcpy(to + i * bytes,
                    idx[i] < rows_a ? from_a + idx[i] * bytes : from_b + (idx[i] - rows_a) * bytes,
                    bytes);
      }
    }
  });
  return out;
}

at::Tensor GatherRowsWithGrad(const at::Tensor& a, const at::Tensor& b, const at::Tensor& index) {
  return GatherFunction::apply(a, b, index);
}

void ScatterAddRows(const at::Tensor& rows, const at::Tensor& index_in, at::Tensor& a,
                    at::Tensor& b) {
  const at::Tensor index = index_in.contiguous();
  const int64_t c = rows.size(1), rows_a = a.size(0);
  const int64_t* idx = index.const_data_ptr<int64_t>();
  AT_DISPATCH_FLOATING_TYPES(rows.scalar_type(), "ScatterAddRows", [&] {
    const scalar_t* from = rows.const_data_ptr<scalar_t>();
    scalar_t* to_a = a.data_ptr<scalar_t>();
    scalar_t* to_b = b.data_ptr<scalar_t>();
    // Each task owns a range of target rows, so that sums have one order whatever the number of
    // threads.
    const int64_t targets = rows_a + b.size(0);
    const int64_t tasks = std::min<int64_t>(at::get_num_threads(),
                                            std::max<int64_t>(1, index.numel() / kRowsPerTask));
    at::parallel_for(0, tasks, 1, [&](int64_t task_begin, int64_t task_end) {
      const int64_t low = targets * task_begin / tasks, high = targets * task_end / tasks;
      for (int64_t i = 0; i < index.numel(); ++i) {
        if (idx[i] < low || idx[i] >= high) continue;
        scalar_t* to = idx[i] < rows_a ? to_a + idx[i] * c : to_b + (idx[i] - rows_a) * c;
        const scalar_t* row = from + i * c;
        for (int64_t j = 0; j < c; ++j) to[j] += row[j];
      }
    });
  });
}

}  // namespace palimpsest::attention
