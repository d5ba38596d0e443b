#include "common/model/causal.h"

#include <ATen/ATen.h>

#include <cmath>
#include <limits>

namespace palimpsest::model {
namespace {

// One sequence: q [n, H, d], k and v [n, Hk, d], all wide -> [n, H, d].
at::Tensor AttendOne(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v) {
  const int64_t n = q.size(0);
  const int64_t group = q.size(1) / k.size(1);
  const at::Tensor keys = k.repeat_interleave(group, 1).permute({1, 2, 0});  // [H, d, n]
  const at::Tensor values = v.repeat_interleave(group, 1).transpose(0, 1);   // [H, n, d]
  const double scale = 1 / std::sqrt(static_cast<double>(q.size(2)));
  const at::Tensor scores = q.transpose(0, 1).matmul(keys) * scale;  // [H, n, n]
  const at::Tensor unseen = at::ones({n, n}, q.options().dtype(at::kBool)).triu(1);
  const at::Tensor masked = scores.masked_fill(unseen, -std::numeric_limits<double>::infinity());
  return masked.softmax(-1).matmul(values).transpose(0, 1);
}

}  // namespace

at::Tensor CausalContext::Attend(int, const at::Tensor& q, const at::Tensor& k,
                                 const at::Tensor& v) {
  const at::ScalarType wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  std::vector<at::Tensor> parts;
  int64_t begin = 0;
  for (const int64_t n : lengths_) {
    const auto rows = [&](const at::Tensor& x) { return x.narrow(0, begin, n).to(wide); };
    parts.push_back(AttendOne(rows(q), rows(k), rows(v)));
    begin += n;
  }
  return at::cat(parts, 0).to(q.scalar_type());
}

}  // namespace palimpsest::model
