#include <ATen/ATen.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include "common/attention/execute_torch.h"
#include "common/attention/rows_torch.h"

namespace palimpsest::attention {
namespace {

// A key that may not be seen scores this: finite, so no row is NaN, and e^-10000 is exactly 0
// beside any visible key.
constexpr double kHidden = -1e4;

at::Tensor Index(const std::vector<int64_t>& values, at::IntArrayRef shape) {
  return at::tensor(values, at::kLong).view(shape);
}

// Index into flat [rows * heads] for (row, head) pairs, keeping -1.
at::Tensor Flatten(const at::Tensor& rows, const at::Tensor& heads, int64_t per_row) {
  return at::where(rows < 0, rows, rows * per_row + heads);
}

at::Tensor Flat(const at::Tensor& x) { return x.reshape({x.size(0) * x.size(1), x.size(2)}); }

// One group's operands. Letters: S segments, B = S * Hk, M = g * Lq query rows per KV head.
struct Part {
  at::Tensor q_index;  // [S, Hk, g, Lq] into [T * H]
  at::Tensor k_index;  // [S, Hk, Lk] into [(N + C) * Hk]
  at::Tensor q, k, v;  // [B, M, d], [B, Lk, d] wide
  at::Tensor scores;   // [B, M, Lk] scale q k' + bias, hidden keys at kHidden
};

at::Tensor HiddenByCause(const KernelGroup& g, const at::TensorOptions& options) {
  const at::Tensor i = at::arange(g.queries).view({1, -1, 1}) +
                       at::tensor(g.causal_offset, at::kLong).view({-1, 1, 1});
  const at::Tensor hidden = at::arange(g.keys).view({1, 1, -1}) > i;
  return hidden.to(options.dtype()).mul_(kHidden).view({g.segments, 1, 1, g.queries, g.keys});
}

Part Prepare(const KernelGroup& g, const at::Tensor& q, const KeySource& source, double scale) {
  const int64_t heads = q.size(1), group = heads / g.kv_heads, d = q.size(2);
  Part p;
  const at::Tensor rows = Index(g.query_rows, {g.segments, 1, 1, g.queries});
  const at::Tensor head = at::arange(heads).view({1, g.kv_heads, group, 1});
  p.q_index = Flatten(rows.expand({g.segments, g.kv_heads, group, g.queries}), head, heads);
  p.k_index = Flatten(Index(g.key_slots, {g.segments, g.kv_heads, g.keys}),
                      at::arange(g.kv_heads).view({1, -1, 1}), g.kv_heads);
  const int64_t batch = g.segments * g.kv_heads;
  p.q = Wide(GatherRows(Flat(q), Flat(q).slice(0, 0, 0), p.q_index))
            .view({batch, group * g.queries, d});
  p.k =
      Wide(GatherRows(Flat(source.k), Flat(source.k_compact), p.k_index)).view({batch, g.keys, d});
  p.v =
      Wide(GatherRows(Flat(source.v), Flat(source.v_compact), p.k_index)).view({batch, g.keys, d});
  const int64_t raw = source.k.size(0) * g.kv_heads;
  const at::Tensor compact = (p.k_index - raw).clamp_min(-1);
  at::Tensor bias = GatherRows(source.bias.reshape({-1, 1}),
                               source.bias.reshape({-1, 1}).slice(0, 0, 0), compact);
  bias = bias.view({batch, 1, g.keys}).masked_fill(p.k_index.view({batch, 1, g.keys}) < 0, kHidden);
  p.scores = at::baddbmm(bias, p.q, p.k.transpose(1, 2), 1.0, scale);
  if (!g.causal_offset.empty()) {
    p.scores.view({g.segments, g.kv_heads, group, g.queries, g.keys})
        .add_(HiddenByCause(g, p.scores.options()));
  }
  return p;
}

// The dummy row T takes what padded queries produce.
at::Tensor RowsOrDummy(const at::Tensor& q_index, int64_t dummy) {
  return at::where(q_index < 0, dummy, q_index).view(-1);
}

void MergePart(const Part& p, at::Tensor& o, at::Tensor& lse) {
  const at::Tensor l = at::logsumexp(p.scores, 2);
  const at::Tensor part = at::bmm(at::exp(p.scores - l.unsqueeze(2)), p.v);
  const at::Tensor rows = RowsOrDummy(p.q_index, lse.size(0) - 1);
  const at::Tensor l_part = l.reshape(-1), l_old = lse.index_select(0, rows);
  const at::Tensor l_new = at::logaddexp(l_old, l_part);
  at::Tensor merged = o.index_select(0, rows).mul_(at::exp(l_old - l_new).unsqueeze(1));
  merged.addcmul_(part.reshape({-1, o.size(1)}), at::exp(l_part - l_new).unsqueeze(1));
  o.index_copy_(0, rows, merged);
  lse.index_copy_(0, rows, l_new);
}

struct Gradients {
  at::Tensor q, q_none, k, v, k_compact, v_compact, bias, bias_none;
};

// Backward of one part from the merged L and D = sum(dO * O), both [T * H].
void BackwardPart(const Part& p, const at::Tensor& d_o, const at::Tensor& lse,
                  const at::Tensor& delta, double scale, int64_t raw_slots, Gradients& out) {
  const int64_t batch = p.q.size(0), m = p.q.size(1), d = p.q.size(2);
  const at::Tensor none = d_o.slice(0, 0, 0), scalar_none = none.slice(1, 0, 1);
  const at::Tensor g_o = GatherRows(d_o, none, p.q_index).view({batch, m, d});
  const at::Tensor l = GatherRows(lse.unsqueeze(1), scalar_none, p.q_index).view({batch, m, 1});
  const at::Tensor dl = GatherRows(delta.unsqueeze(1), scalar_none, p.q_index).view({batch, m, 1});
  const at::Tensor padded = (p.q_index < 0).view({batch, m, 1});
  const at::Tensor prob = at::exp(p.scores - l).masked_fill_(padded, 0);
  const at::Tensor d_v = at::bmm(prob.transpose(1, 2), g_o);
  const at::Tensor d_s = at::bmm(g_o, p.v.transpose(1, 2)).sub_(dl).mul_(prob);
  const at::Tensor d_q = at::bmm(d_s, p.k).mul_(scale);
  const at::Tensor d_k = at::bmm(d_s.transpose(1, 2), p.q).mul_(scale);
  ScatterAddRows(d_q.view({-1, d}), p.q_index, out.q, out.q_none);
  ScatterAddRows(d_k.view({-1, d}), p.k_index, out.k, out.k_compact);
  ScatterAddRows(d_v.view({-1, d}), p.k_index, out.v, out.v_compact);
  if (out.bias.size(0) > 0) {
    ScatterAddRows(d_s.sum(1).view({-1, 1}), (p.k_index - raw_slots).clamp_min(-1), out.bias,
                   out.bias_none);
  }
}

struct PlanHolder : torch::CustomClassHolder {
  explicit PlanHolder(std::shared_ptr<const AttentionPlan> p) : plan(std::move(p)) {}
  std::shared_ptr<const AttentionPlan> plan;
};

struct AttendFunction : torch::autograd::Function<AttendFunction> {
  static at::Tensor forward(torch::autograd::AutogradContext* ctx, const at::Tensor& q,
                            const at::Tensor& k, const at::Tensor& v, const at::Tensor& k_compact,
                            const at::Tensor& v_compact, const at::Tensor& bias,
                            std::shared_ptr<const AttentionPlan> plan, double scale) {
    const KeySource source{
        .k = k, .v = v, .k_compact = k_compact, .v_compact = v_compact, .bias = bias};
    AttentionResult result = ExecutePlan(*plan, q, source, scale);
    ctx->save_for_backward({q, k, v, k_compact, v_compact, bias, result.o, result.lse});
    ctx->saved_data["plan"] =
        c10::IValue::make_capsule(c10::make_intrusive<PlanHolder>(std::move(plan)));
    ctx->saved_data["scale"] = scale;
    return result.o;
  }

  static torch::autograd::variable_list backward(torch::autograd::AutogradContext* ctx,
                                                 torch::autograd::variable_list grads) {
    const auto saved = ctx->get_saved_variables();
    const at::Tensor& q = saved[0];
    const KeySource source{.k = saved[1],
                           .v = saved[2],
                           .k_compact = saved[3],
                           .v_compact = saved[4],
                           .bias = saved[5]};
    const auto holder =
        c10::static_intrusive_pointer_cast<PlanHolder>(ctx->saved_data["plan"].toCapsule());
    const double scale = ctx->saved_data["scale"].toDouble();
    const at::Tensor d_o = Flat(Wide(grads[0])).contiguous();
    const at::Tensor delta = (d_o * Flat(Wide(saved[6]))).sum(1);
    const auto zeros = [&](const at::Tensor& x) {
      return at::zeros(x.sizes(), d_o.options()).view({-1, q.size(2)});
    };
    Gradients out{.q = zeros(q),
                  .q_none = d_o.slice(0, 0, 0),
                  .k = zeros(source.k),
                  .v = zeros(source.v),
                  .k_compact = zeros(source.k_compact),
                  .v_compact = zeros(source.v_compact),
                  .bias = at::zeros({source.bias.numel(), 1}, d_o.options()),
                  .bias_none = d_o.slice(0, 0, 0).slice(1, 0, 1).contiguous()};
    const int64_t raw = source.k.size(0) * source.k.size(1);
    for (const KernelGroup& g : holder->plan->groups) {
      BackwardPart(Prepare(g, q, source, scale), d_o, saved[7].reshape(-1), delta, scale, raw, out);
    }
    return {out.q.view_as(q).to(q.scalar_type()),
            out.k.view_as(source.k).to(q.scalar_type()),
            out.v.view_as(source.v).to(q.scalar_type()),
            out.k_compact.view_as(source.k_compact).to(q.scalar_type()),
            out.v_compact.view_as(source.v_compact).to(q.scalar_type()),
            out.bias.view_as(source.bias),
            {},
            {}};
  }
};

}  // namespace

AttentionResult ExecutePlan(const AttentionPlan& plan, const at::Tensor& q, const KeySource& source,
                            double scale) {
  const int64_t rows = q.size(0) * q.size(1), d = q.size(2);
  const auto options = Wide(q.slice(0, 0, 0)).options();
  at::Tensor o = at::zeros({rows + 1, d}, options);
  at::Tensor lse = at::full({rows + 1}, -std::numeric_limits<double>::infinity(), options);
  for (const KernelGroup& g : plan.groups) MergePart(Prepare(g, q, source, scale), o, lse);
  return {.o = o.slice(0, 0, rows).view(q.sizes()).to(q.scalar_type()),
          .lse = lse.slice(0, 0, rows).view({q.size(0), q.size(1)})};
}

at::Tensor AttendWithGrad(std::shared_ptr<const AttentionPlan> plan, const at::Tensor& q,
                          const KeySource& s, double scale) {
  return AttendFunction::apply(q.contiguous(), s.k, s.v, s.k_compact, s.v_compact, s.bias,
                               std::move(plan), scale);
}

}  // namespace palimpsest::attention
