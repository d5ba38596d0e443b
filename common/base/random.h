#pragma once

#include <array>
#include <cstdint>
#include <initializer_list>
#include <string_view>

namespace palimpsest {

// Counter-based randomness (Philox4x32-10; Salmon et al., SC 2011): a draw is a pure function of
// what it is for, so that batch order, preemption and the number of replicas cannot change it.

// Philox4x32-10 of one counter under one key.
std::array<uint32_t, 4> Philox(std::array<uint32_t, 4> counter, std::array<uint32_t, 2> key);

// Mixes named parts into one seed: MixSeed({run_seed, Meaning("heldout"), step}). Order matters.
uint64_t MixSeed(std::initializer_list<uint64_t> parts);

// A stable number for a word, so that streams are keyed by meaning (FNV-1a).
uint64_t Meaning(std::string_view word);

// Uniform in [0, 1), 53 bits; the draw of (seed, sample, position).
double Uniform01(uint64_t seed, uint64_t sample, uint64_t position);

// A sequence of draws for code that needs many (shuffles, task generation): counter `n` under
// `seed`.
class RandomStream {
 public:
  explicit RandomStream(uint64_t seed) : seed_(seed) {}
  uint64_t Next64();
  double Uniform();                            // [0, 1)
  int64_t Below(int64_t n);                    // [0, n), n > 0, without modulo bias
  int64_t Between(int64_t low, int64_t high);  // [low, high], both ends
  double Normal();                             // mean 0, variance 1 (Box-Muller)

 private:
  uint64_t seed_;
  uint64_t counter_ = 0;
};

}  // namespace palimpsest
