#pragma once

#include <cstdint>

#include "common/base/status.h"

namespace palimpsest::rl {

// What stands in for "make good tokens likelier" when the tokens come from recorded
// log-probabilities o and the present ones are n. One update is made per batch, so the policy that
// a ratio is taken against is the one that sampled, whatever version it was. A is the advantage, w
// the token's weight, c = min(rho, cap) with the cap of the correction (correction.h).
//
//   clipped  rho = exp(n - o); PPO's clip (Schulman et al., 2017), as in GRPO (arXiv:2402.03300)
//            and with two bounds in DAPO (arXiv:2503.14476):
//              A > 0 and rho > 1 + clip_high:  loss = -w A (1 + clip_high), no gradient
//              A < 0 and rho < 1 - clip_low:   loss = -w A (1 - clip_low), no gradient
//              else                            loss = -w A c,   d loss / d n = -w A c
//   gspo     the same for a whole sequence (arXiv:2507.18071, eq. 5-7), with
//            rho = exp(mean_t(n_t - o_t)), w A = sum_t w_t A_t and d rho / d n_t = rho / T_i.
//   cispo    rho = clip(exp(n - o), 1 - clip_low, 1 + clip_high) is a weight, a constant of the
//            gradient (arXiv:2506.13585, eq. 4-5): loss = -w A c n, d loss / d n = -w A c. With
//            clip_low = 1 it is the policy gradient with truncated weights and nothing else.
//   ipo      a token whose probability moved too far, exp(n) - exp(o) outside [-clip_low,
//            clip_high], does not count; the others have loss = -w A c, d loss / d n = -w A c
//            ("INTELLECT policy optimization" of PRIME-RL).
//   dppo     the same, but only a move that A asks for is too far: up for A > 0, down for A < 0.
// Where c is cut its gradient stays as written: the token still pushes, with a bounded weight.
enum class SurrogateKind : uint8_t { kClipped, kGspo, kCispo, kIpo, kDppo };

struct SurrogateOptions {
  SurrogateKind kind = SurrogateKind::kClipped;
  double clip_low = 0.2;   // [0, 1]; of the ratio, or of the probability (ipo, dppo)
  double clip_high = 0.2;  // >= 0; likewise
  bool operator==(const SurrogateOptions&) const = default;
};
absl::Status Validate(const SurrogateOptions& options);

// A token of any kind but gspo, or a sequence of gspo: there `advantage` is its sum of w A,
// `weight` 1 and the ratio that of the sequence.
struct SurrogateToken {
  double logprob = 0;   // n
  double recorded = 0;  // o
  double ratio = 1;     // exp(n - o)
  double advantage = 0;
  double weight = 0;
};

struct SurrogateTerm {
  double loss = 0;
  double gradient = 0;   // d loss / d n; of a sequence: d loss / d log rho
  bool clipped = false;  // a bound held it back
};
SurrogateTerm Surrogate(const SurrogateOptions& options, const SurrogateToken& token, double cap);

}  // namespace palimpsest::rl
