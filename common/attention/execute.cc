#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <torch/csrc/autograd/custom_function.h>
#include <torch/custom_class.h>

#include <type_traits>

#include "common/attention/execute_torch.h"
#include "common/attention/rows_torch.h"
#include "common/attention/segment_kernel.h"

namespace palimpsest::attention {
namespace {

constexpr int64_t kWorkPerTask = 400'000;  // multiply-adds of the scores: some 50 microseconds

// Contiguous tensors whose memory the kernel's pointers lead to.
struct Contiguous {
  at::Tensor q, k, v, k_compact, v_compact, bias;
  Contiguous(const at::Tensor& q_in, const KeySource& s)
      : q(q_in.contiguous()),
        k(s.k.contiguous()),
        v(s.v.contiguous()),
        k_compact(s.k_compact.contiguous()),
        v_compact(s.v_compact.contiguous()),
        bias(s.bias.contiguous()) {}
};

template <class Stored, class Real>
KernelOperands<Stored, Real> Operands(const Contiguous& x, double scale) {
  const auto stored = [](const at::Tensor& t) {
    return static_cast<const Stored*>(t.const_data_ptr());
  };
  return {.q = stored(x.q),
          .k = stored(x.k),
          .v = stored(x.v),
          .k_compact = stored(x.k_compact),
          .v_compact = stored(x.v_compact),
          .bias = static_cast<const Real*>(x.bias.const_data_ptr()),
          .raw_slots = x.k.size(0),
          .heads = static_cast<int>(x.q.size(1)),
          .kv_heads = static_cast<int>(x.k.size(1)),
          .d = static_cast<int>(x.q.size(2)),
          .scale = static_cast<Real>(scale)};
}

// Calls body(Stored{}, Real{}) for the tensors' type.
template <class Body>
void Dispatch(at::ScalarType type, const Body& body) {
  if (type == at::kDouble) return body(double{}, double{});
  if (type == at::kBFloat16) return body(BFloat16{}, float{});
  TORCH_CHECK(type == at::kFloat, "attention runs in float32, bfloat16 or float64");
  body(float{}, float{});
}

struct PlanHolder : torch::CustomClassHolder {
  explicit PlanHolder(std::shared_ptr<const AttentionPlan> p) : plan(std::move(p)) {}
  std::shared_ptr<const AttentionPlan> plan;
};

struct Gradients {
  at::Tensor q, k, v, k_compact, v_compact, bias;
};

Gradients Backward(const AttentionPlan& plan, const Contiguous& x, const at::Tensor& d_o,
                   const at::Tensor& lse, const at::Tensor& delta, double scale) {
  const auto zeros = [&](const at::Tensor& like) { return at::zeros(like.sizes(), d_o.options()); };
  Gradients out{zeros(x.q),         zeros(x.k),         zeros(x.v),
                zeros(x.k_compact), zeros(x.v_compact), zeros(x.bias)};
  Dispatch(x.q.scalar_type(), [&](auto stored, auto real) {
    using Real = decltype(real);
    const auto operands = Operands<decltype(stored), Real>(x, scale);
    const KernelGradients<Real> to{out.q.data_ptr<Real>(),         out.k.data_ptr<Real>(),
                                   out.v.data_ptr<Real>(),         out.k_compact.data_ptr<Real>(),
                                   out.v_compact.data_ptr<Real>(), out.bias.data_ptr<Real>()};
    // Heads share no gradient; within a head segments are summed in one order, whatever the number
    // of threads.
    at::parallel_for(0, operands.kv_heads, 1, [&](int64_t begin, int64_t end) {
      for (int64_t h = begin; h < end; ++h) {
        for (const KernelGroup& g : plan.groups) {
          for (int64_t s = 0; s < g.segments; ++s) {
            BackwardSegment(operands, g, s, static_cast<int>(h), d_o.const_data_ptr<Real>(),
                            lse.const_data_ptr<Real>(), delta.const_data_ptr<Real>(), to);
          }
        }
      }
    });
  });
  return out;
}

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
    const Contiguous x(saved[0], {.k = saved[1],
                                  .v = saved[2],
                                  .k_compact = saved[3],
                                  .v_compact = saved[4],
                                  .bias = saved[5]});
    const auto holder =
        c10::static_intrusive_pointer_cast<PlanHolder>(ctx->saved_data["plan"].toCapsule());
    const at::Tensor d_o = Wide(grads[0]).contiguous();
    const at::Tensor delta = (d_o * Wide(saved[6])).sum(2).contiguous();
    const Gradients g = Backward(*holder->plan, x, d_o, saved[7].contiguous(), delta,
                                 ctx->saved_data["scale"].toDouble());
    const auto type = saved[0].scalar_type();
    return {g.q.to(type),         g.k.to(type), g.v.to(type), g.k_compact.to(type),
            g.v_compact.to(type), g.bias,       {},           {}};
  }
};

}  // namespace

AttentionResult ExecutePlan(const AttentionPlan& plan, const at::Tensor& q, const KeySource& source,
                            double scale) {
  const Contiguous x(q, source);
  const auto options = q.options().dtype(q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat);
  at::Tensor o = at::zeros(q.sizes(), options);
  at::Tensor lse =
      at::full({q.size(0), q.size(1)}, -std::numeric_limits<double>::infinity(), options);
  Dispatch(q.scalar_type(), [&](auto stored, auto real) {
    using Real = decltype(real);
    const auto operands = Operands<decltype(stored), Real>(x, scale);
    for (const KernelGroup& g : plan.groups) {
      // Smaller tasks cost more in waking threads than they give.
      const int64_t work = g.queries * (operands.heads / g.kv_heads) * g.keys * operands.d;
      const int64_t grain = std::max<int64_t>(1, kWorkPerTask / std::max<int64_t>(work, 1));
      // Head by head: of causal segments the later ones have more to do, of heads none has.
      at::parallel_for(0, g.segments * g.kv_heads, grain, [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          ForwardSegment(operands, g, i % g.segments, static_cast<int>(i / g.segments),
                         o.data_ptr<Real>(), lse.data_ptr<Real>());
        }
      });
    }
  });
  return {.o = o.to(q.scalar_type()), .lse = lse};
}

at::Tensor AttendWithGrad(std::shared_ptr<const AttentionPlan> plan, const at::Tensor& q,
                          const KeySource& s, double scale) {
  return AttendFunction::apply(q, s.k, s.v, s.k_compact, s.v_compact, s.bias, std::move(plan),
                               scale);
}

}  // namespace palimpsest::attention
