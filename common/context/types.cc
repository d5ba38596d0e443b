#include "common/context/types.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "absl/strings/str_format.h"

namespace palimpsest::context {
namespace {

constexpr std::array<std::pair<Method, std::string_view>, 3> kMethods = {{
    {Method::kAttentionMatching, "attention_matching"},
    {Method::kEvict, "evict"},
    {Method::kMarkovian, "markovian"},
}};
constexpr std::array<std::pair<Chooser, std::string_view>, 10> kChoosers = {{
    {Chooser::kRms, "rms"},
    {Chooser::kMean, "mean"},
    {Chooser::kMax, "max"},
    {Chooser::kOmp, "omp"},
    {Chooser::kAttention, "attention"},
    {Chooser::kRecent, "recent"},
    {Chooser::kRandom, "random"},
    {Chooser::kAccumulated, "accumulated"},
    {Chooser::kCarriedMax, "carried_max"},
    {Chooser::kDiverse, "diverse"},
}};
constexpr std::array<std::pair<ReferenceKind, std::string_view>, 3> kReferenceKinds = {{
    {ReferenceKind::kQueries, "queries"},
    {ReferenceKind::kKeys, "keys"},
    {ReferenceKind::kRandom, "random"},
}};

// A number outside of the table (a hostile record) has the name "".
template <class Table, class Enum>
std::string_view NameIn(const Table& table, Enum value) {
  for (const auto& [number, name] : table) {
    if (number == value) return name;
  }
  return "";
}

template <class Enum, size_t N>
absl::StatusOr<Enum> FromName(const std::array<std::pair<Enum, std::string_view>, N>& table,
                              const char* field, std::string_view wanted) {
  std::string known;
  for (const auto& [number, name] : table) {
    if (name == wanted) return number;
    known += known.empty() ? "" : ", ";
    known += name;
  }
  return absl::InvalidArgumentError(
      absl::StrFormat("%s=\"%s\" is not one of: %s", field, wanted, known));
}

bool Fits(Chooser chooser, Method method) {
  if (method == Method::kMarkovian || Carries(method, chooser)) return true;
  const bool evicts =
      chooser == Chooser::kAttention || chooser == Chooser::kRecent || chooser == Chooser::kRandom;
  return evicts == (method == Method::kEvict);
}

// Also false for NaN.
bool Within(double x, double low, double high) { return x >= low && x <= high; }

constexpr double kLargestPull = 1e12;
constexpr double kLargestLogBound = 80;  // exp(80) is still a finite fp32

}  // namespace

std::string_view Name(Method m) { return NameIn(kMethods, m); }
std::string_view Name(Chooser c) { return NameIn(kChoosers, c); }
std::string_view Name(ReferenceKind k) { return NameIn(kReferenceKinds, k); }

absl::StatusOr<Method> MethodFromName(std::string_view name) {
  return FromName(kMethods, "method", name);
}
absl::StatusOr<Chooser> ChooserFromName(std::string_view name) {
  return FromName(kChoosers, "chooser", name);
}
absl::StatusOr<ReferenceKind> ReferenceKindFromName(std::string_view name) {
  return FromName(kReferenceKinds, "reference_kind", name);
}

Chooser DefaultChooser(Method method) {
  return method == Method::kEvict ? Chooser::kAttention : Chooser::kRms;
}

bool UsesReference(Method method, Chooser chooser) {
  return method == Method::kAttentionMatching ||
         (method == Method::kEvict && (chooser == Chooser::kAttention || Carries(method, chooser)));
}

bool Carries(Method method, Chooser chooser) {
  return method != Method::kMarkovian &&
         (chooser == Chooser::kAccumulated || chooser == Chooser::kCarriedMax ||
          chooser == Chooser::kDiverse);
}

absl::Status Validate(const Parameters& p, Method method) {
  if (Name(method).empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("method=%d is unknown", static_cast<int>(method)));
  }
  if (!Within(p.mu, 0, kLargestPull) || p.mu == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("mu=%g is not in (0, 1e12]", p.mu));
  }
  if (!Within(p.lambda, 0, kLargestPull) || p.lambda == 0) {
    return absl::InvalidArgumentError(absl::StrFormat("lambda=%g is not in (0, 1e12]", p.lambda));
  }
  if (!Within(p.log_lower, -kLargestLogBound, 0) || p.log_lower == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("log_lower=%g is not in [-80, 0)", p.log_lower));
  }
  if (!Within(p.log_upper, 0, kLargestLogBound) || p.log_upper == 0) {
    return absl::InvalidArgumentError(
        absl::StrFormat("log_upper=%g is not in (0, 80]", p.log_upper));
  }
  if (Name(p.chooser).empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("chooser=%d is unknown", static_cast<int>(p.chooser)));
  }
  if (!Fits(p.chooser, method)) {
    return absl::InvalidArgumentError(
        absl::StrFormat("chooser=%s is not one of method=%s", Name(p.chooser), Name(method)));
  }
  if (Name(p.reference_kind).empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("reference_kind=%d is unknown", static_cast<int>(p.reference_kind)));
  }
  if (p.holdout_every < 0 || p.holdout_every == 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("holdout_every=%d is neither 0 (off) nor >= 2", p.holdout_every));
  }
  return absl::OkStatus();
}

int32_t KeptPositions::max_count() const {
  int32_t most = 0;
  for (size_t i = 1; i < offsets_.size(); ++i) {
    most = std::max(most, offsets_[i] - offsets_[i - 1]);
  }
  return most;
}

std::string Digest::Hex() const {
  std::string out;
  for (uint8_t byte : bytes) out += absl::StrFormat("%02x", byte);
  return out;
}

absl::StatusOr<Digest> Digest::FromHex(std::string_view hex) {
  constexpr std::string_view kDigits = "0123456789abcdef";
  Digest digest;
  if (hex.size() != 2 * digest.bytes.size() ||
      hex.find_first_not_of(kDigits) != std::string_view::npos) {
    return absl::InvalidArgumentError(
        absl::StrFormat("digest of %d characters is not 32 lower-case hex digits", hex.size()));
  }
  for (size_t i = 0; i < digest.bytes.size(); ++i) {
    digest.bytes[i] =
        static_cast<uint8_t>(kDigits.find(hex[2 * i]) << 4 | kDigits.find(hex[2 * i + 1]));
  }
  return digest;
}

int32_t KeptCount(Method method, double keep_ratio, int32_t w) {
  if (method == Method::kMarkovian || w <= 0) return 0;
  const auto share = static_cast<int32_t>(std::floor(keep_ratio * w));
  if (method == Method::kEvict) return share;
  return std::min(w, std::max(1, share));
}

}  // namespace palimpsest::context
