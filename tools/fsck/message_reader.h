#pragma once

#include <string_view>

#include "tools/fsck/evidence.h"

namespace palimpsest::tools {

// What the bytes of a rollout (palimpsest.v1.Rollout) say of themselves. Bytes that are no such
// message, or whose context log contradicts itself (windows, kept positions, digests), are told in
// `damage`, and nothing else of them is.
LedgerMessage ReadMessage(std::string_view bytes);

}  // namespace palimpsest::tools
