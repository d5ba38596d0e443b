#include "tests/unit/common/compaction/window_testing.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace palimpsest::compaction::testing {
namespace {

Matrix Normal(RandomStream& random, int rows, int columns, double scale) {
  Matrix m(rows, Row(columns));
  for (Row& row : m) {
    for (double& v : row) v = scale * random.Normal();
  }
  return m;
}

// [B, rows, columns] filled with 3.5 where a problem has nothing.
at::Tensor PadRows(const std::vector<SlowProblem>& problems, Matrix SlowProblem::*field) {
  size_t rows = 1, columns = (problems[0].*field)[0].size();
  for (const SlowProblem& p : problems) rows = std::max(rows, (p.*field).size());
  at::Tensor out = at::full({static_cast<int64_t>(problems.size()), static_cast<int64_t>(rows),
                             static_cast<int64_t>(columns)},
                            3.5, at::kDouble);
  for (size_t b = 0; b < problems.size(); ++b) {
    for (size_t i = 0; i < (problems[b].*field).size(); ++i)
      std::copy((problems[b].*field)[i].begin(), (problems[b].*field)[i].end(),
                out.data_ptr<double>() + (b * rows + i) * columns);
  }
  return out;
}

template <class T, class Field>
at::Tensor PadList(const std::vector<SlowProblem>& problems, Field field, int64_t length, T pad) {
  std::vector<T> flat;
  for (const SlowProblem& p : problems) {
    flat.insert(flat.end(), (p.*field).begin(), (p.*field).end());
    flat.resize(flat.size() + length - (p.*field).size(), pad);
  }
  return at::tensor(flat, c10::CppTypeToScalarType<T>::value)
      .view({static_cast<int64_t>(problems.size()), length});
}

}  // namespace

at::Tensor FromRows(const Matrix& rows) {
  std::vector<double> flat;
  for (const Row& row : rows) flat.insert(flat.end(), row.begin(), row.end());
  return at::tensor(flat, at::kDouble).view({static_cast<int64_t>(rows.size()), -1});
}

SlowProblem RandomProblem(RandomStream& random, int w, int n, int t, int d, double peak,
                          bool holdout) {
  SlowProblem p{.keys = Normal(random, w, d, 1),
                .values = Normal(random, w, d, 1),
                .queries = Normal(random, n, d, peak),
                .scale = 1 / std::sqrt(static_cast<double>(d)),
                .lower = std::exp(-7.0),
                .upper = std::exp(7.0)};
  for (int j = 0; j < w; ++j) p.bias.push_back(random.Uniform() < 0.5 ? 0 : 0.5 * random.Normal());
  for (int i = 0; i < n; ++i) {
    p.held.push_back(holdout && i % 3 == 2);
    p.fitted.push_back(!p.held.back());
  }
  std::vector<int> order(w);
  std::iota(order.begin(), order.end(), 0);
  for (int i = 0; i < t; ++i) std::swap(order[i], order[random.Between(i, w - 1)]);
  p.kept.assign(order.begin(), order.begin() + t);
  std::sort(p.kept.begin(), p.kept.end());
  return p;
}

Windows Pack(std::vector<SlowProblem> problems) {
  int64_t w = 1, n = 1, t = 1;
  Windows out;
  std::vector<uint8_t> slots;
  std::vector<double> mu, lambda, lower, upper;
  for (const SlowProblem& p : problems) {
    w = std::max<int64_t>(w, static_cast<int64_t>(p.keys.size()));
    n = std::max<int64_t>(n, static_cast<int64_t>(p.queries.size()));
    t = std::max<int64_t>(t, static_cast<int64_t>(p.kept.size()));
    out.kept.counts.push_back(static_cast<int>(p.kept.size()));
    mu.push_back(p.mu), lambda.push_back(p.lambda);
    lower.push_back(p.lower), upper.push_back(p.upper);
  }
  const auto count = static_cast<int64_t>(problems.size());
  for (const SlowProblem& p : problems) {
    for (int64_t j = 0; j < w; ++j) slots.push_back(j < static_cast<int64_t>(p.keys.size()));
  }
  out.batch = {.keys = PadRows(problems, &SlowProblem::keys),
               .values = PadRows(problems, &SlowProblem::values),
               .bias = PadList<double>(problems, &SlowProblem::bias, w, 0),
               .slot_mask = at::tensor(slots, at::kByte).view({count, w}).to(at::kBool),
               .queries = PadRows(problems, &SlowProblem::queries),
               .query_mask = PadList<uint8_t>(problems, &SlowProblem::fitted, n, 0).to(at::kBool),
               .holdout_mask = PadList<uint8_t>(problems, &SlowProblem::held, n, 0).to(at::kBool),
               .scale = problems[0].scale};
  out.kept.index = PadList<int>(problems, &SlowProblem::kept, t, 0).to(at::kLong);
  const auto column = [](const std::vector<double>& x) { return at::tensor(x, at::kDouble); };
  out.numerics = {
      .mu = column(mu), .lambda = column(lambda), .lower = column(lower), .upper = column(upper)};
  out.problems = std::move(problems);
  return out;
}

Windows Cast(const Windows& windows, at::ScalarType dtype) {
  Windows out = windows;
  out.batch.keys = out.batch.keys.to(dtype);
  out.batch.values = out.batch.values.to(dtype);
  out.batch.queries = out.batch.queries.to(dtype);
  out.batch.bias = out.batch.bias.to(dtype == at::kDouble ? at::kDouble : at::kFloat);
  return out;
}

}  // namespace palimpsest::compaction::testing
