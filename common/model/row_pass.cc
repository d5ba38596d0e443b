#include <ATen/ATen.h>
#include <ATen/Parallel.h>

#include <cmath>

#include "common/model/row_kernels.h"
#include "common/model/row_pass_torch.h"

namespace palimpsest::model {
namespace {

constexpr int64_t kWorkPerTask = 200'000;  // multiply-adds that are worth a thread

int64_t Grain(int64_t work_each) { return std::max<int64_t>(1, kWorkPerTask / work_each); }

// x w', prepared with the help of `scratch`.
template <class Stored>
Product<Stored> ProductOf(const at::Tensor& x, const at::Tensor& w, std::vector<float>& scratch) {
  Product<Stored> product{static_cast<const Stored*>(w.const_data_ptr()),
                          static_cast<const Stored*>(x.const_data_ptr()), x.size(0), w.size(1)};
  Prepare(product, scratch);
  return product;
}

// One pass of T rows. Letters: T rows, D hidden width, I inner width, H heads, Hk KV heads, d head
// width.
template <class Stored>
class RowPass {
 public:
  RowPass(const RowModel& model, const at::Tensor& positions)
      : model_(model), t_(positions.size(0)), d_(model.config.head_dim) {
    MakeTables(positions);
  }

  at::Tensor Run(const at::Tensor& ids, AttentionContext& attention) {
    const ModelConfig& c = model_.config;
    at::Tensor x = at::embedding(model_.embedding, ids);
    at::Tensor normed = at::empty_like(x);
    at::Tensor gated = at::empty({t_, c.intermediate}, x.options());
    at::Tensor inner = at::empty({t_, 2 * int64_t{c.intermediate}}, x.options());
    const int64_t heads = c.heads, kv_heads = c.kv_heads;
    at::Tensor qkv = at::empty({t_, (heads + 2 * kv_heads) * d_}, x.options());
    for (int i = 0; i < c.layers; ++i) {
      const Layer& layer = model_.layers[i];
      Norm(x, layer.input_norm, normed);
      Multiply(normed, layer.qkv.weight, layer.qkv.bias, qkv, false);
      at::Tensor q = at::empty({t_, heads, d_}, x.options());
      at::Tensor k = at::empty({t_, kv_heads, d_}, x.options());
      Split(qkv, layer, q, k);
      const at::Tensor v =
          qkv.view({t_, heads + 2 * kv_heads, d_}).narrow(1, heads + kv_heads, kv_heads);
      const at::Tensor mixed = attention.Attend(i, q, k, v).reshape({t_, heads * d_}).contiguous();
      Multiply(mixed, layer.output.weight, layer.output.bias, x, true);
      Norm(x, layer.mlp_norm, normed);
      Multiply(normed, layer.gate_up.weight, layer.gate_up.bias, inner, false);
      Gate(inner, gated);
      Multiply(gated, layer.down.weight, layer.down.bias, x, true);
    }
    Norm(x, model_.final_norm, normed);
    return normed;
  }

 private:
  static const Stored* In(const at::Tensor& x) {
    return static_cast<const Stored*>(x.const_data_ptr());
  }
  static Stored* Out(at::Tensor& x) { return static_cast<Stored*>(x.data_ptr()); }

  // Angles as the training path forms them: fp32 products, then rounded to the rows' type.
  void MakeTables(const at::Tensor& positions) {
    const int64_t half = d_ / 2;
    const int64_t* at = positions.const_data_ptr<int64_t>();
    const float* frequency = model_.frequencies.const_data_ptr<float>();
    cos_.resize(t_ * d_), sin_.resize(t_ * d_);
    for (int64_t t = 0; t < t_; ++t) {
      for (int64_t c = 0; c < half; ++c) {
        const float angle = static_cast<float>(at[t]) * frequency[c];
        float *cos = &cos_[t * d_ + c], *sin = &sin_[t * d_ + c];
        cos[0] = cos[half] = Rounded<Stored>(std::cos(angle));
        sin[half] = Rounded<Stored>(std::sin(angle));
        sin[0] = -sin[half];
      }
    }
  }

  void Norm(const at::Tensor& x, const at::Tensor& weight, at::Tensor& out) const {
    const int64_t n = x.size(1);
    const float eps = static_cast<float>(model_.config.rms_norm_eps);
    at::parallel_for(0, t_, Grain(4 * n), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        NormRow(In(x) + t * n, In(weight), n, eps, Out(out) + t * n);
    });
  }

  // Queries and keys: normalised where the model does that, then rotated.
  void Split(const at::Tensor& qkv, const Layer& layer, at::Tensor& q, at::Tensor& k) const {
    const int64_t heads = q.size(1), kv_heads = k.size(1), width = heads + 2 * kv_heads;
    const float eps = static_cast<float>(model_.config.rms_norm_eps);
    at::parallel_for(0, t_, Grain(8 * width * d_), [&](int64_t begin, int64_t end) {
      std::vector<Stored> normed(d_);
      for (int64_t i = begin * (heads + kv_heads); i < end * (heads + kv_heads); ++i) {
        const int64_t t = i / (heads + kv_heads), h = i % (heads + kv_heads);
        const bool query = h < heads;
        const Stored* x = In(qkv) + (t * width + h) * d_;
        if (const at::Tensor& weight = query ? layer.q_norm : layer.k_norm; weight.defined()) {
          NormRow(x, In(weight), d_, eps, normed.data());
          x = normed.data();
        }
        Stored* to =
            query ? Out(q) + (t * heads + h) * d_ : Out(k) + (t * kv_heads + h - heads) * d_;
        RotateHead(x, &cos_[t * d_], &sin_[t * d_], static_cast<int>(d_), to);
      }
    });
  }

  void Gate(const at::Tensor& inner, at::Tensor& out) const {
    const int64_t n = out.size(1);
    at::parallel_for(0, t_, Grain(16 * n), [&](int64_t begin, int64_t end) {
      for (int64_t t = begin; t < end; ++t)
        GateRow(In(inner) + 2 * t * n, In(inner) + (2 * t + 1) * n, n, Out(out) + t * n);
    });
  }

  // out = x w' + bias, added to what is there when `add`; each rounded as by itself.
  void Multiply(const at::Tensor& x, const at::Tensor& w, const at::Tensor& bias, at::Tensor& out,
                bool add) {
    const int64_t n = w.size(0);
    // Never smaller: what it grows by is zeroed.
    if (std::ssize(sums_) < t_ * n) sums_.resize(t_ * n);
    const Stored* b = bias.defined() ? In(bias) : nullptr;
    Stored* to = Out(out);
    const Product<Stored> product = ProductOf<Stored>(x, w, packed_);
    at::parallel_for(0, n, Grain(t_ * w.size(1)), [&](int64_t begin, int64_t end) {
      MultiplyRows(product, begin, end, sums_.data(), n);
      for (int64_t t = 0; t < t_; ++t) {
        StoreRow(sums_.data() + t * n + begin, b ? b + begin : nullptr, end - begin, add,
                 to + t * n + begin);
      }
    });
  }

  const RowModel& model_;
  int64_t t_, d_;
  std::vector<float> cos_, sin_;      // [T, d]
  std::vector<float> packed_, sums_;  // scratch
};

template <class Stored>
at::Tensor Logits(const at::Tensor& hidden, const at::Tensor& head) {
  const int64_t rows = hidden.size(0), n = head.size(0), k = head.size(1);
  std::vector<float> packed;
  const Product<Stored> product = ProductOf<Stored>(hidden, head, packed);
  at::Tensor out = at::empty({rows, n}, at::kFloat);
  at::parallel_for(0, n, Grain(rows * k), [&](int64_t begin, int64_t end) {
    MultiplyRows(product, begin, end, out.data_ptr<float>(), n);
  });
  return out;
}

}  // namespace

at::Tensor HiddenByRows(const RowModel& model, const at::Tensor& ids, const at::Tensor& positions,
                        AttentionContext& attention) {
  if (model.embedding.scalar_type() == at::kBFloat16)
    return RowPass<BFloat16>(model, positions).Run(ids, attention);
  return RowPass<float>(model, positions).Run(ids, attention);
}

at::Tensor LogitsByRows(const at::Tensor& hidden, const at::Tensor& head) {
  const at::Tensor rows = hidden.contiguous();
  return head.scalar_type() == at::kBFloat16 ? Logits<BFloat16>(rows, head)
                                             : Logits<float>(rows, head);
}

}  // namespace palimpsest::model
