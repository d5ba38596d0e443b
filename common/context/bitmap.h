#pragma once

#include "common/context/types.h"

// Kept positions as bits over a window [begin, end): bit i % 8 (LSB first) of byte i / 8 stands for
// position begin + i. Each head has ceil((end - begin) / 8) bytes, unused bits zero; heads follow
// each other layer-major. The canonical record and the wire carry the same bytes.
namespace palimpsest::context {

// 0 for an empty window.
int64_t BitmapBytes(Range window);

// Appends one head's bitmap. Positions lie inside the window.
void AppendBitmap(Range window, std::span<const int32_t> positions, std::string& out);

// All heads. `kept` is complete.
std::string EncodeBitmaps(Range window, const KeptPositions& kept);

// INVALID_ARGUMENT when the window or shape is empty, the size is not L * Hk * BitmapBytes, or an
// unused bit is set. Allocates no more than what `bytes` accounts for, whatever shape says.
absl::StatusOr<KeptPositions> DecodeBitmaps(Range window, Shape shape, std::string_view bytes);

}  // namespace palimpsest::context
