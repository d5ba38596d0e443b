#include "common/model/rope.h"

#include <ATen/ATen.h>

#include <numbers>

namespace palimpsest::model {
namespace {

// Wavelengths over original/low are stretched by `factor`, those under original/high stay, those
// between are interpolated in 1 / wavelength.
at::Tensor StretchLlama3(const at::Tensor& frequencies, const Llama3Scaling& s) {
  const double original = s.original_max_position;
  const double longest = original / s.low_freq_factor;
  const double shortest = original / s.high_freq_factor;
  const at::Tensor wavelength = frequencies.reciprocal() * (2 * std::numbers::pi);
  const at::Tensor slow = frequencies / s.factor;
  const at::Tensor keep = (wavelength.reciprocal() * original - s.low_freq_factor) /
                          (s.high_freq_factor - s.low_freq_factor);
  const at::Tensor between = (1 - keep) * frequencies / s.factor + keep * frequencies;
  return at::where(wavelength > longest, slow,
                   at::where(wavelength < shortest, frequencies, between));
}

}  // namespace

at::Tensor RopeFrequencies(const ModelConfig& config, bool precise) {
  const at::TensorOptions kind = precise ? at::kDouble : at::kFloat;
  const at::Tensor exponent = at::arange(0, config.head_dim, 2, kind) / config.head_dim;
  const at::Tensor frequencies = at::pow(config.rope_theta, exponent).reciprocal();
  return config.rope_scaling ? StretchLlama3(frequencies, *config.rope_scaling) : frequencies;
}

std::pair<at::Tensor, at::Tensor> RopeTables(const at::Tensor& positions,
                                             const at::Tensor& frequencies,
                                             const at::Tensor& like) {
  const at::Tensor angles =
      (positions.to(frequencies.scalar_type()).unsqueeze(1) * frequencies).unsqueeze(1);
  const at::Tensor cos = angles.cos();
  const at::Tensor sin = angles.sin();
  return {at::cat({cos, cos}, -1).to(like.scalar_type()),
          at::cat({-sin, sin}, -1).to(like.scalar_type())};
}

at::Tensor Rotate(const at::Tensor& x, const at::Tensor& cos, const at::Tensor& signed_sin) {
  const at::Tensor swapped = at::roll(x, x.size(-1) / 2, -1);
  return at::addcmul(x * cos, swapped, signed_sin);
}

}  // namespace palimpsest::model
