#pragma once

#include <array>
#include <compare>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

// The words of the context log. Plain values, no torch.
// Letters: L layers, Hk KV heads, P prompt tokens, w slots of a window, t kept slots. Positions
// count from 0, prompt included.
namespace palimpsest::context {

// Half-open run of positions [begin, end).
struct Range {
  int32_t begin = 0;
  int32_t end = 0;
  int32_t size() const { return end - begin; }
  bool empty() const { return end <= begin; }
  bool contains(int32_t p) const { return begin <= p && p < end; }
  bool operator==(const Range&) const = default;
};

// The numbers are those of the canonical record: never renumber.
enum class Method : uint8_t { kAttentionMatching = 1, kEvict = 2, kMarkovian = 3 };
enum class Chooser : uint8_t {
  kRms = 1,  // attention_matching (its default): sqrt(mean_i a_ij^2)
  kMean = 2,
  kMax = 3,
  kOmp = 4,        // orthogonal matching pursuit on the Gram matrix
  kAttention = 5,  // evict (its default): as kRms
  kRecent = 6,     // evict
  kRandom = 7,     // evict
  // Of either method; they weigh what slots bring along from earlier events (Carries).
  kAccumulated = 8,  // the attention that a slot has received at all of them, summed
  kCarriedMax = 9,  // the largest rms of any of them; blocks get shares by the positions they cover
  kDiverse = 10,    // the same maximum against the likeness of keys
};
enum class ReferenceKind : uint8_t { kQueries = 1, kKeys = 2, kRandom = 3 };

// Names as on the wire, in YAML and in the command's JSON: "attention_matching", "rms", "queries",
// ...
std::string_view Name(Method m);
std::string_view Name(Chooser c);
std::string_view Name(ReferenceKind k);
absl::StatusOr<Method> MethodFromName(std::string_view name);
absl::StatusOr<Chooser> ChooserFromName(std::string_view name);
absl::StatusOr<ReferenceKind> ReferenceKindFromName(std::string_view name);

// Numerics of one event (design: Attention Matching). Always recorded, whatever the method.
struct Parameters {
  double mu = 1e-2;       // pull of the weights towards 1, relative to tr(G)/t; > 0
  double lambda = 1e-2;   // pull of the values towards the kept ones, relative to tr(X'X)/t; > 0
  double log_lower = -7;  // bounds of log w_j; log_lower < 0 < log_upper
  double log_upper = 7;
  Chooser chooser = Chooser::kRms;
  ReferenceKind reference_kind = ReferenceKind::kQueries;
  uint64_t seed = 0;
  int32_t holdout_every = 0;  // 0 = off, or >= 2
  bool operator==(const Parameters&) const = default;
};
// mu, lambda in (0, 1e12]; log_lower in [-80, 0), log_upper in (0, 80]; a chooser of the method
// (markovian takes any, it chooses nothing).
absl::Status Validate(const Parameters& p, Method method);
// rms; attention for evict. Who builds a request without a chooser fills this in.
Chooser DefaultChooser(Method method);
// Does the event listen to reference rows? If not it records the reference range [0, 0).
bool UsesReference(Method method, Chooser chooser);
// Does the choice hang on what earlier events of the log have seen, too? Then it is a function of
// the whole log, and who rebuilds a cache listens at each event of it again.
bool Carries(Method method, Chooser chooser);

struct Shape {
  int32_t layers = 0;
  int32_t kv_heads = 0;
  bool operator==(const Shape&) const = default;
};

// Source positions that survive an event, per layer and KV head, ascending. [L][Hk][t_lh], flat.
class KeptPositions {
 public:
  KeptPositions() = default;
  explicit KeptPositions(Shape shape) : shape_(shape), offsets_(1, 0) {}
  // Heads are added in order: layer-major, head 0 of layer 0 first.
  void AddHead(std::span<const int32_t> positions) {
    positions_.insert(positions_.end(), positions.begin(), positions.end());
    offsets_.push_back(static_cast<int32_t>(positions_.size()));
  }
  Shape shape() const { return shape_; }
  bool complete() const {
    return static_cast<int64_t>(offsets_.size()) == int64_t{shape_.layers} * shape_.kv_heads + 1;
  }
  std::span<const int32_t> at(int layer, int head) const {
    const size_t i = static_cast<size_t>(layer) * shape_.kv_heads + head;
    return std::span(positions_).subspan(offsets_[i], offsets_[i + 1] - offsets_[i]);
  }
  int32_t max_count() const;  // the most kept slots of any head; 0 when empty
  bool operator==(const KeptPositions&) const = default;

 private:
  Shape shape_;
  std::vector<int32_t> offsets_;  // [L*Hk + 1]
  std::vector<int32_t> positions_;
};

// XXH3-128 of the log up to an event.
struct Digest {
  std::array<uint8_t, 16> bytes{};  // canonical big-endian order: high half first
  std::string Hex() const;          // 32 lower-case digits
  static absl::StatusOr<Digest> FromHex(std::string_view hex);
  bool operator==(const Digest&) const = default;
};

// How well an event that listened to rows did. Means over layers and heads; not in the digest.
struct Quality {
  double mass_error = 0;  // relative, over the fitted reference queries
  double output_error = 0;
  double kkt_residual = 0;                          // worst head, relative to tr(G)/t
  std::optional<double> holdout_mass_error = {};    // present iff a reference row was held out:
  std::optional<double> holdout_output_error = {};  // 0 < holdout_every <= reference.size()
  bool operator==(const Quality&) const = default;
};

struct Event {
  int32_t at = 0;  // processed count when it happened
  Range window = {};
  Method method = Method::kAttentionMatching;
  Parameters parameters = {};
  Range reference = {};  // [0, 0) for methods without queries
  KeptPositions kept = {};
  std::optional<Digest> digest = {};
  Quality quality = {};
  double seconds = 0;  // wall time of the event on the engine
  bool operator==(const Event&) const = default;
};

// Kept slots of a head that has `w` slots in the window.
// attention_matching min(w, max(1, floor(keep_ratio w))); evict floor(keep_ratio w); markovian 0.
// Product in double.
int32_t KeptCount(Method method, double keep_ratio, int32_t w);

}  // namespace palimpsest::context
