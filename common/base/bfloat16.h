#pragma once

#include <bit>
#include <cstdint>

namespace palimpsest {

// bf16 as it is stored.
struct BFloat16 {
  uint16_t bits;
};

inline float Widen(float x) { return x; }
inline double Widen(double x) { return x; }
inline float Widen(BFloat16 x) { return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16); }

// To the nearest, ties to even. NaN stays NaN.
inline void Narrow(float x, float* to) { *to = x; }
inline void Narrow(float x, BFloat16* to) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const bool nan = x != x;
  to->bits =
      static_cast<uint16_t>(nan ? bits >> 16 | 0x40 : (bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}
// What is left of x when it is stored as Stored.
template <class Stored>
float Rounded(float x) {
  Stored stored;
  Narrow(x, &stored);
  return Widen(stored);
}

}  // namespace palimpsest
