#include "common/base/random.h"

#include <cmath>
#include <numbers>

namespace palimpsest {
namespace {

constexpr double kTo01 = 0x1.0p-53;

uint64_t Word64(const std::array<uint32_t, 4>& block, int half) {
  return (static_cast<uint64_t>(block[2 * half + 1]) << 32) | block[2 * half];
}

std::array<uint32_t, 2> Key(uint64_t seed) {
  return {static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32)};
}

// Finaliser of SplitMix64: a bijection with full avalanche.
uint64_t Mix(uint64_t x) {
  x += 0x9e3779b97f4a7c15ULL;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ULL;
  x = (x ^ (x >> 27)) * 0x94d049bb133111ebULL;
  return x ^ (x >> 31);
}

}  // namespace

std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> c, std::array<uint32_t, 2> k) {
  for (int round = 0; round < 10; ++round) {
    const uint64_t p0 = uint64_t{0xD2511F53} * c[0];
    const uint64_t p1 = uint64_t{0xCD9E8D57} * c[2];
    c = {static_cast<uint32_t>(p1 >> 32) ^ c[1] ^ k[0], static_cast<uint32_t>(p1),
         static_cast<uint32_t>(p0 >> 32) ^ c[3] ^ k[1], static_cast<uint32_t>(p0)};
    k[0] += 0x9E3779B9;
    k[1] += 0xBB67AE85;
  }
  return c;
}

uint64_t MixSeed(std::initializer_list<uint64_t> parts) {
  uint64_t h = 0x243f6a8885a308d3ULL;
  for (uint64_t part : parts) h = Mix(h ^ Mix(part));
  return h;
}

uint64_t Meaning(std::string_view word) {
  uint64_t h = 0xcbf29ce484222325ULL;
  for (unsigned char c : word) h = (h ^ c) * 0x100000001b3ULL;
  return h;
}

double Uniform01(uint64_t seed, uint64_t sample, uint64_t position) {
  const auto block = Philox({static_cast<uint32_t>(position), static_cast<uint32_t>(position >> 32),
                             static_cast<uint32_t>(sample), static_cast<uint32_t>(sample >> 32)},
                            Key(seed));
  return static_cast<double>(Word64(block, 0) >> 11) * kTo01;
}

uint64_t RandomStream::Next64() {
  const uint64_t n = counter_++;
  const auto block =
      Philox({static_cast<uint32_t>(n >> 1), static_cast<uint32_t>(n >> 33), 0, 0}, Key(seed_));
  return Word64(block, static_cast<int>(n & 1));
}

double RandomStream::Uniform() { return static_cast<double>(Next64() >> 11) * kTo01; }

int64_t RandomStream::Below(int64_t n) {
  const uint64_t bound = static_cast<uint64_t>(n);
  const uint64_t limit = -bound % bound;  // 2^64 mod n: values under it would favour small results
  uint64_t x = Next64();
  while (x < limit) x = Next64();
  return static_cast<int64_t>(x % bound);
}

int64_t RandomStream::Between(int64_t low, int64_t high) { return low + Below(high - low + 1); }

double RandomStream::Normal() {
  const double u = 1.0 - Uniform();  // (0, 1]: the logarithm stays finite
  return std::sqrt(-2.0 * std::log(u)) * std::cos(2.0 * std::numbers::pi * Uniform());
}

}  // namespace palimpsest
