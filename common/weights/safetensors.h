#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "common/base/status.h"

// The safetensors format: 8 bytes little-endian header length, a JSON header, then the tensors.
namespace palimpsest::weights {

enum class TensorType : uint8_t {
  kBool,
  kU8,
  kI8,
  kF8E4M3,
  kF8E5M2,
  kI16,
  kU16,
  kF16,
  kBF16,
  kI32,
  kU32,
  kF32,
  kI64,
  kU64,
  kF64,
};
int64_t SizeOf(TensorType type);         // bytes per element
std::string_view Name(TensorType type);  // as in the header: "BF16", ...
absl::StatusOr<TensorType> TensorTypeFromName(std::string_view name);

// Row-major elements in memory that somebody else owns. No dimension: a scalar.
struct TensorView {
  TensorType type = TensorType::kF32;
  std::vector<int64_t> shape;
  std::span<const std::byte> bytes;
};
// Bytes that the shape needs; kInvalidArgument on a negative dimension or past 2^63 - 1.
absl::StatusOr<int64_t> ByteSize(TensorType type, std::span<const int64_t> shape);

// One mapped file; views live as long as it does. Immutable, any thread.
class SafetensorsFile {
 public:
  // kDataLoss for any file that breaks the format: a wrong or oversized header, an unknown type, a
  // name that occurs twice, ranges that overlap, leave a gap, end before or after the file, or do
  // not match the shape. The format asks for no alignment: a view's bytes may begin anywhere. The
  // file must not be cut while mapped.
  static absl::StatusOr<std::unique_ptr<SafetensorsFile>> Open(const std::string& path);
  ~SafetensorsFile();
  SafetensorsFile(const SafetensorsFile&) = delete;
  SafetensorsFile& operator=(const SafetensorsFile&) = delete;

  const std::map<std::string, TensorView>& tensors() const { return tensors_; }
  const std::map<std::string, std::string>& metadata() const { return metadata_; }

 private:
  explicit SafetensorsFile(std::span<const std::byte> mapped) : mapped_(mapped) {}

  std::span<const std::byte> mapped_;
  std::map<std::string, TensorView> tensors_;
  std::map<std::string, std::string> metadata_;
};

// What a whole file says; views point into `file`. Open is this over a mapping. `file` starts at an
// address that is a multiple of 8; `path` only names it in errors.
struct SafetensorsContents {
  std::map<std::string, TensorView> tensors;
  std::map<std::string, std::string> metadata;
};
absl::StatusOr<SafetensorsContents> ParseSafetensors(std::span<const std::byte> file,
                                                     std::string_view path);

struct NamedTensor {
  std::string name;
  TensorView tensor;
};
// Writes `path` whole or not at all (fsync, rename). Tensors lie by falling element size, then
// name, so that every one is aligned; equal input gives equal bytes.
absl::Status WriteSafetensors(const std::string& path, std::span<const NamedTensor> tensors,
                              const std::map<std::string, std::string>& metadata);

}  // namespace palimpsest::weights
