#include "tests/unit/common/attention/dense_reference.h"

#include <ATen/ATen.h>

#include <cmath>

#include "common/base/random.h"

namespace palimpsest::attention::testing {
namespace {

using compaction::GradientMode;

at::Tensor RandomTensor(RandomStream& random, at::IntArrayRef shape, double scale) {
  at::Tensor x = at::empty(shape, at::kDouble);
  for (int64_t i = 0; i < x.numel(); ++i) x.data_ptr<double>()[i] = scale * random.Normal();
  return x.requires_grad_(true);
}

// One live slot of one head.
struct Slot {
  int32_t position;
  at::Tensor key, value, bias;  // [d], [d], []
};

// argmin over the box by coordinate descent, then one differentiable solve on the final active set.
at::Tensor BoxWeightsSlow(const at::Tensor& h, const at::Tensor& c, double lower, double upper) {
  const int64_t t = c.size(0);
  std::vector<double> w(t, 1.0);
  const at::Tensor hd = h.detach().contiguous(), cd = c.detach().contiguous();
  const double *hp = hd.data_ptr<double>(), *cp = cd.data_ptr<double>();
  for (int sweep = 0; sweep < 200000; ++sweep) {
    double moved = 0;
    for (int64_t i = 0; i < t; ++i) {
      double g = -cp[i];
      for (int64_t j = 0; j < t; ++j) g += hp[i * t + j] * w[j];
      const double next = std::min(std::max(w[i] - g / hp[i * t + i], lower), upper);
      moved = std::max(moved, std::abs(next - w[i]));
      w[i] = next;
    }
    if (moved < 1e-15) break;
  }
  std::vector<double> free(t);
  for (int64_t i = 0; i < t; ++i) free[i] = w[i] > lower && w[i] < upper;
  const at::Tensor f = at::tensor(free, at::kDouble), bound = at::tensor(w, at::kDouble) * (1 - f);
  const at::Tensor masked = h * f.unsqueeze(0) * f.unsqueeze(1) + at::diag(1 - f);
  const at::Tensor rhs = (c - at::mv(h, bound)) * f;
  return at::linalg_solve(masked, rhs.unsqueeze(1)).squeeze(1) * f + bound;
}

at::Tensor StackKeys(const std::vector<Slot>& slots) {
  std::vector<at::Tensor> rows;
  for (const Slot& s : slots) rows.push_back(s.key);
  return at::stack(rows);
}
at::Tensor StackValues(const std::vector<Slot>& slots) {
  std::vector<at::Tensor> rows;
  for (const Slot& s : slots) rows.push_back(s.value);
  return at::stack(rows);
}
at::Tensor StackBias(const std::vector<Slot>& slots) {
  std::vector<at::Tensor> rows;
  for (const Slot& s : slots) rows.push_back(s.bias);
  return at::stack(rows);
}

// Design section 4 for one head. queries [n, d].
std::vector<Slot> MatchSlow(const std::vector<Slot>& window, const std::vector<Slot>& live,
                            const std::vector<int64_t>& kept, const at::Tensor& queries,
                            const context::Parameters& p, double scale,
                            const ReferenceOptions& options) {
  const at::Tensor index = at::tensor(kept, at::kLong);
  const int64_t t = index.size(0);
  const at::Tensor scores = scale * at::mm(queries, StackKeys(window).t()) + StackBias(window);
  const at::Tensor a = at::softmax(scores, 1);
  at::Tensor target_a = a;
  if (options.mass_twice) {
    const at::Tensor everything = scale * at::mm(queries, StackKeys(live).t()) + StackBias(live);
    target_a = at::exp(scores - at::logsumexp(everything, 1, true));
  }
  const at::Tensor a_kept = a.index_select(1, index);
  const at::Tensor gram = at::mm(a_kept.t(), a_kept);
  const at::Tensor mu = p.mu * gram.trace() / static_cast<double>(t);
  const at::Tensor w = BoxWeightsSlow(gram + mu * at::eye(t, at::kDouble), a_kept.sum(0) + mu,
                                      std::exp(p.log_lower), std::exp(p.log_upper));
  const at::Tensor x = at::softmax(scores.index_select(1, index) + w.log(), 1);
  const at::Tensor y = at::mm(target_a, StackValues(window));
  const at::Tensor v_kept = StackValues(window).index_select(0, index);
  const at::Tensor xx = at::mm(x.t(), x);
  const at::Tensor lambda = p.lambda * xx.trace() / static_cast<double>(t);
  at::Tensor values =
      at::linalg_solve(xx + lambda * at::eye(t, at::kDouble), at::mm(x.t(), y) + lambda * v_kept);
  at::Tensor bias = StackBias(window).index_select(0, index) + w.log();
  at::Tensor keys = StackKeys(window).index_select(0, index);
  if (options.gradient != GradientMode::kFull) bias = bias.detach();
  if (options.gradient == GradientMode::kStraightThrough)
    values = values.detach() + v_kept - v_kept.detach();
  if (options.gradient == GradientMode::kDetached) values = values.detach(), keys = keys.detach();
  std::vector<Slot> out;
  for (int64_t j = 0; j < t; ++j)
    out.push_back({window[kept[j]].position, keys[j], values[j], bias[j]});
  return out;
}

void ApplySlow(std::vector<Slot>& live, const context::Event& e, int layer, int head,
               const at::Tensor& q, int group, double scale, const ReferenceOptions& options) {
  const int record = options.record_layer_for_all >= 0 ? options.record_layer_for_all : layer;
  std::vector<Slot> before, window, after, next;
  for (const Slot& s : live)
    (s.position < e.window.begin ? before
     : s.position < e.window.end ? window
                                 : after)
        .push_back(s);
  std::vector<int64_t> kept;
  for (int32_t p : e.kept.at(record, head)) {
    for (size_t j = 0; j < window.size(); ++j) {
      if (window[j].position == p) kept.push_back(static_cast<int64_t>(j));
    }
  }
  if (e.method == context::Method::kAttentionMatching) {
    const at::Tensor rows =
        q.slice(0, e.reference.begin, e.reference.end).slice(1, head * group, (head + 1) * group);
    next =
        MatchSlow(window, live, kept, rows.reshape({-1, q.size(2)}), e.parameters, scale, options);
  } else {
    for (int64_t j : kept) next.push_back(window[j]);
  }
  live = before;
  live.insert(live.end(), next.begin(), next.end());
  live.insert(live.end(), after.begin(), after.end());
}

// Attention of one KV head's query group over the whole sequence: [rows, group, d].
at::Tensor HeadOutput(const ToyModel::Projections& x, const ReplaySequence& s, int layer, int head,
                      const ReferenceOptions& options) {
  const int64_t group = x.q.size(1) / x.k.size(1);
  const double scale = 1 / std::sqrt(static_cast<double>(x.q.size(2)));
  std::vector<Slot> live;
  std::vector<at::Tensor> out;
  size_t next_event = 0;
  for (int32_t p = 0; p < s.rows; ++p) {
    if (next_event < s.events.size() && s.events[next_event].event.at == p) {
      ApplySlow(live, s.events[next_event++].event, layer, head, x.q, static_cast<int>(group),
                scale, options);
    }
    live.push_back({p, x.k[p][head], x.v[p][head], at::zeros({}, at::kDouble)});
    const at::Tensor q = x.q[p].slice(0, head * group, (head + 1) * group);
    const at::Tensor weights =
        at::softmax(scale * at::mm(q, StackKeys(live).t()) + StackBias(live), 1);
    out.push_back(at::mm(weights, StackValues(live)));
  }
  return at::stack(out);
}

}  // namespace

ToyModel::ToyModel(int layers_, int heads_, int kv_heads_, int d_, int vocab_, uint64_t seed,
                   double peak)
    : layers(layers_),
      heads(heads_),
      kv_heads(kv_heads_),
      d(d_),
      width(heads_ * d_),
      vocab(vocab_) {
  RandomStream random(seed);
  const double unit = 1 / std::sqrt(static_cast<double>(width));
  parameters = {RandomTensor(random, {vocab, width}, 1), RandomTensor(random, {width, vocab}, unit),
                RandomTensor(random, {width}, 0.3)};
  for (int l = 0; l < layers; ++l) {
    parameters.push_back(RandomTensor(random, {width, heads * d}, peak * unit));
    parameters.push_back(RandomTensor(random, {width, kv_heads * d}, unit));
    parameters.push_back(RandomTensor(random, {width, kv_heads * d}, unit));
    parameters.push_back(RandomTensor(random, {heads * d, width}, unit));
  }
}

at::Tensor ToyModel::Embed(const std::vector<int64_t>& ids,
                           const std::vector<int64_t>& positions) const {
  const at::Tensor p = at::tensor(positions, at::kLong).to(at::kDouble).unsqueeze(1);
  return parameters[0].index_select(0, at::tensor(ids, at::kLong)) + at::sin(p * parameters[2]);
}

ToyModel::Projections ToyModel::Project(int layer, const at::Tensor& x) const {
  const int64_t rows = x.size(0);
  return {at::mm(x, parameters[3 + 4 * layer]).view({rows, heads, d}),
          at::mm(x, parameters[4 + 4 * layer]).view({rows, kv_heads, d}),
          at::mm(x, parameters[5 + 4 * layer]).view({rows, kv_heads, d})};
}

at::Tensor ToyModel::Close(int layer, const at::Tensor& x, const at::Tensor& o) const {
  return x + at::tanh(at::mm(o.reshape({x.size(0), -1}), parameters[6 + 4 * layer]));
}

at::Tensor ToyModel::LogProbs(const at::Tensor& x, const std::vector<int64_t>& rows,
                              const std::vector<int64_t>& targets) const {
  const at::Tensor logits = at::mm(x.index_select(0, at::tensor(rows, at::kLong)), parameters[1]);
  return at::log_softmax(logits, 1)
      .gather(1, at::tensor(targets, at::kLong).unsqueeze(1))
      .squeeze(1);
}

at::Tensor ToyModel::Forward(const std::vector<int64_t>& ids, const std::vector<int64_t>& positions,
                             model::AttentionContext& a) const {
  at::Tensor x = Embed(ids, positions);
  for (int l = 0; l < layers; ++l) {
    const Projections p = Project(l, x);
    x = Close(l, x, a.Attend(l, p.q, p.k, p.v));
  }
  return x;
}

at::Tensor ReferenceLogProbs(const ToyModel& model, const ReplaySequence& s,
                             const ReferenceOptions& options) {
  std::vector<int64_t> ids(s.tokens.begin(), s.tokens.begin() + s.rows), positions, rows, targets;
  for (int32_t p = 0; p < s.rows; ++p) {
    positions.push_back(p);
    rows.push_back(p);
    targets.push_back(s.tokens[p + 1]);
  }
  at::Tensor x = model.Embed(ids, positions);
  for (int l = 0; l < model.layers; ++l) {
    const ToyModel::Projections p = model.Project(l, x);
    std::vector<at::Tensor> heads;
    for (int h = 0; h < model.kv_heads; ++h) heads.push_back(HeadOutput(p, s, l, h, options));
    x = model.Close(l, x, at::cat(heads, 1));
  }
  return model.LogProbs(x, rows, targets);
}

}  // namespace palimpsest::attention::testing
