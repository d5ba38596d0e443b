#pragma once

namespace palimpsest {

// Whether this processor has registers of 16 floats (AVX-512 F).
inline bool HasWideRegisters() {
  static const bool has = __builtin_cpu_supports("avx512f");
  return has;
}

// Whether this processor has what files compiled for AVX-512 BF16 use: F, BW, DQ and BF16.
inline bool HasBFloat16Instructions() {
  static const bool has = __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
                          __builtin_cpu_supports("avx512dq") &&
                          __builtin_cpu_supports("avx512bf16");
  return has;
}

}  // namespace palimpsest
