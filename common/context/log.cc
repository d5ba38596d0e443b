#include "common/context/log.h"

#include <xxhash.h>

#include <bit>
#include <cstring>
#include <memory>

#include "absl/strings/str_format.h"
#include "common/context/bitmap.h"

namespace palimpsest::context {
namespace {

static_assert(std::endian::native == std::endian::little,
              "records and token ids are hashed as they lie in memory");

template <class T>
void Put(T value, std::string& out) {
  char bytes[sizeof(T)];
  std::memcpy(bytes, &value, sizeof(T));
  out.append(bytes, sizeof(T));
}

absl::Status CheckReference(const Event& event) {
  const Range r = event.reference;
  if (!UsesReference(event.method, event.parameters.chooser)) {
    if (r == Range{}) return absl::OkStatus();
    return absl::InvalidArgumentError(
        absl::StrFormat("reference=[%d, %d) is not [0, 0): method=%s with chooser=%s asks no query",
                        r.begin, r.end, Name(event.method), Name(event.parameters.chooser)));
  }
  if (r.begin < 0 || r.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("reference=[%d, %d) is not a range of positions", r.begin, r.end));
  }
  if (r.end > event.at) {
    return absl::InvalidArgumentError(
        absl::StrFormat("reference.end=%d is past at=%d", r.end, event.at));
  }
  return absl::OkStatus();
}

// All but the digest; on success `state` stands behind the event.
absl::Status CheckEvent(const Event& event, size_t tokens, ContextState& state) {
  if (event.at <= state.last_event_at()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "at=%d is not greater than the previous event's at=%d", event.at, state.last_event_at()));
  }
  if (static_cast<size_t>(event.at) >= tokens) {
    return absl::InvalidArgumentError(
        absl::StrFormat("at=%d is not a position of %d tokens", event.at, tokens));
  }
  RETURN_IF_ERROR(Validate(event.parameters, event.method));
  RETURN_IF_ERROR(CheckReference(event));
  state.Append(event.at - state.processed());
  return state.Apply(event);
}

// The digests that the events should have.
absl::StatusOr<std::vector<Digest>> CheckedDigests(Shape shape, std::span<const int32_t> tokens,
                                                   std::span<const Event> events) {
  ContextState state(shape);
  std::vector<Digest> digests;
  for (size_t i = 0; i < events.size(); ++i) {
    const Event& event = events[i];
    if (absl::Status status = CheckEvent(event, tokens.size(), state); !status.ok()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("events[%d].%s", i, std::string(status.message())));
    }
    digests.push_back(i == 0 ? ChainDigest(std::nullopt, 0, tokens, event)
                             : ChainDigest(digests[i - 1], events[i - 1].at, tokens, event));
    if (event.digest.has_value() && *event.digest != digests[i]) {
      return absl::InvalidArgumentError(absl::StrFormat("events[%d].digest=%s, the log gives %s", i,
                                                        event.digest->Hex(), digests[i].Hex()));
    }
  }
  return digests;
}

}  // namespace

std::string CanonicalRecord(const Event& event) {
  const Parameters& p = event.parameters;
  std::string out;
  Put(static_cast<uint32_t>(event.at), out);
  Put(static_cast<uint32_t>(event.window.begin), out);
  Put(static_cast<uint32_t>(event.window.end), out);
  Put(static_cast<uint8_t>(event.method), out);
  Put(p.mu, out);
  Put(p.lambda, out);
  Put(p.log_lower, out);
  Put(p.log_upper, out);
  Put(static_cast<uint8_t>(p.chooser), out);
  Put(static_cast<uint8_t>(p.reference_kind), out);
  Put(p.seed, out);
  Put(p.holdout_every, out);
  Put(static_cast<uint32_t>(event.reference.begin), out);
  Put(static_cast<uint32_t>(event.reference.end), out);
  Put(static_cast<uint32_t>(event.kept.shape().layers), out);
  Put(static_cast<uint32_t>(event.kept.shape().kv_heads), out);
  return out + EncodeBitmaps(event.window, event.kept);
}

Digest ChainDigest(const std::optional<Digest>& previous, int32_t previous_at,
                   std::span<const int32_t> tokens, const Event& event) {
  const Digest start = previous.value_or(Digest{});
  const auto ids = tokens.subspan(previous_at, event.at - previous_at);
  const std::string record = CanonicalRecord(event);
  const std::unique_ptr<XXH3_state_t, decltype(&XXH3_freeState)> hash(XXH3_createState(),
                                                                      &XXH3_freeState);
  XXH3_128bits_reset(hash.get());
  XXH3_128bits_update(hash.get(), start.bytes.data(), start.bytes.size());
  XXH3_128bits_update(hash.get(), ids.data(), ids.size_bytes());
  XXH3_128bits_update(hash.get(), record.data(), record.size());
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits_digest(hash.get()));
  Digest digest;
  static_assert(sizeof(canonical.digest) == sizeof(digest.bytes));
  std::memcpy(digest.bytes.data(), canonical.digest, sizeof(canonical.digest));
  return digest;
}

absl::Status CompleteDigests(std::span<const int32_t> tokens, std::vector<Event>& events) {
  if (events.empty()) return absl::OkStatus();
  ASSIGN_OR_RETURN(const std::vector<Digest> digests,
                   CheckedDigests(events.front().kept.shape(), tokens, events));
  for (size_t i = 0; i < events.size(); ++i) events[i].digest = digests[i];
  return absl::OkStatus();
}

absl::Status CheckLog(Shape shape, std::span<const int32_t> tokens, std::span<const Event> events) {
  return CheckedDigests(shape, tokens, events).status();
}

}  // namespace palimpsest::context
