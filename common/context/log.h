#pragma once

#include "common/context/state.h"

namespace palimpsest::context {

// The canonical record of an event: field order and widths stand in README.md.
std::string CanonicalRecord(const Event& event);

// XXH3-128(previous, or 16 zero bytes ‖ u32 little-endian ids of [previous_at, at) ‖ canonical
// record). `tokens` are the sequence's ids from position 0; tokens.size() >= event.at.
Digest ChainDigest(const std::optional<Digest>& previous, int32_t previous_at,
                   std::span<const int32_t> tokens, const Event& event);

// Fills the digest of every event that lacks one (in order); an existing wrong one is
// INVALID_ARGUMENT.
absl::Status CompleteDigests(std::span<const int32_t> tokens, std::vector<Event>& events);

// Checks a log alone: `at` strictly rising and < the number of tokens, windows block-aligned, kept
// ⊂ live, counts, ranges (end <= at, ref_end <= at), parameters, digests. INVALID_ARGUMENT names
// the event and the field.
absl::Status CheckLog(Shape shape, std::span<const int32_t> tokens, std::span<const Event> events);

}  // namespace palimpsest::context
