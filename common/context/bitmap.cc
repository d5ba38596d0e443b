#include "common/context/bitmap.h"

#include <bit>

#include "absl/strings/str_format.h"

namespace palimpsest::context {
namespace {

constexpr int64_t kMostBytes = (1 << 28) - 1;  // KeptPositions counts positions in 31 bits

// Appends the positions of one head to `out`.
absl::Status DecodeHead(Range window, std::string_view bytes, std::vector<int32_t>& out) {
  const int64_t size = int64_t{window.end} - window.begin;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (unsigned bits = static_cast<uint8_t>(bytes[i]); bits != 0; bits &= bits - 1) {
      const int64_t offset = static_cast<int64_t>(8 * i) + std::countr_zero(bits);
      if (offset >= size) {
        return absl::InvalidArgumentError("kept: a bit past the window's end is set");
      }
      out.push_back(static_cast<int32_t>(window.begin + offset));
    }
  }
  return absl::OkStatus();
}

}  // namespace

int64_t BitmapBytes(Range window) {
  return window.empty() ? 0 : (int64_t{window.end} - window.begin + 7) / 8;
}

void AppendBitmap(Range window, std::span<const int32_t> positions, std::string& out) {
  const size_t start = out.size();
  out.resize(start + static_cast<size_t>(BitmapBytes(window)), '\0');
  for (int32_t p : positions) {
    const int32_t i = p - window.begin;
    char& byte = out[start + static_cast<size_t>(i / 8)];
    byte = static_cast<char>(static_cast<uint8_t>(byte) | 1u << (i % 8));
  }
}

std::string EncodeBitmaps(Range window, const KeptPositions& kept) {
  std::string out;
  for (int layer = 0; layer < kept.shape().layers; ++layer) {
    for (int head = 0; head < kept.shape().kv_heads; ++head) {
      AppendBitmap(window, kept.at(layer, head), out);
    }
  }
  return out;
}

absl::StatusOr<KeptPositions> DecodeBitmaps(Range window, Shape shape, std::string_view bytes) {
  if (window.begin < 0 || window.empty()) {
    return absl::InvalidArgumentError(
        absl::StrFormat("window=[%d, %d) is not a range of positions", window.begin, window.end));
  }
  const int64_t heads = int64_t{shape.layers} * shape.kv_heads;
  const auto size = static_cast<int64_t>(bytes.size());
  const int64_t stride = BitmapBytes(window);
  if (shape.layers <= 0 || shape.kv_heads <= 0 || heads > size || size > kMostBytes ||
      heads * stride != size) {
    return absl::InvalidArgumentError(
        absl::StrFormat("kept of %d bytes is not a bitmap of %d layers x %d KV heads x %d bytes",
                        size, shape.layers, shape.kv_heads, stride));
  }
  KeptPositions kept(shape);
  std::vector<int32_t> positions;
  for (int64_t head = 0; head < heads; ++head) {
    positions.clear();
    RETURN_IF_ERROR(DecodeHead(window, bytes.substr(head * stride, stride), positions));
    kept.AddHead(positions);
  }
  return kept;
}

}  // namespace palimpsest::context
