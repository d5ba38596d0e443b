#include "common/weights/safetensors.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cerrno>
#include <cstring>
#include <limits>
#include <set>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/base/unique_fd.h"
#include "common/weights/checked_json.h"
#include "common/weights/durable_file.h"

namespace palimpsest::weights {
namespace {

static_assert(std::endian::native == std::endian::little, "the format is little-endian");

constexpr uint64_t kMaxHeader = 100'000'000;  // the limit that the format's own library sets
constexpr size_t kPrefix = 8;
constexpr std::string_view kMetadata = "__metadata__";

struct TypeRow {
  TensorType type;
  std::string_view name;
  int64_t size;
};
constexpr std::array<TypeRow, 15> kTypes = {{{TensorType::kBool, "BOOL", 1},
                                             {TensorType::kU8, "U8", 1},
                                             {TensorType::kI8, "I8", 1},
                                             {TensorType::kF8E4M3, "F8_E4M3", 1},
                                             {TensorType::kF8E5M2, "F8_E5M2", 1},
                                             {TensorType::kI16, "I16", 2},
                                             {TensorType::kU16, "U16", 2},
                                             {TensorType::kF16, "F16", 2},
                                             {TensorType::kBF16, "BF16", 2},
                                             {TensorType::kI32, "I32", 4},
                                             {TensorType::kU32, "U32", 4},
                                             {TensorType::kF32, "F32", 4},
                                             {TensorType::kI64, "I64", 8},
                                             {TensorType::kU64, "U64", 8},
                                             {TensorType::kF64, "F64", 8}}};
constexpr const TypeRow& Row(TensorType type) { return kTypes[static_cast<size_t>(type)]; }
constexpr bool RowsMatchTypes() {
  for (size_t i = 0; i < kTypes.size(); ++i) {
    if (kTypes[i].type != static_cast<TensorType>(i)) return false;
  }
  return true;
}
static_assert(RowsMatchTypes());

struct Range {
  uint64_t begin = 0;
  uint64_t end = 0;
  auto operator<=>(const Range&) const = default;
};

// A JSON array of whole numbers in [0, 2^63).
absl::StatusOr<std::vector<int64_t>> ReadNumbers(const Json& entry, const char* key) {
  const auto found = entry.find(key);
  if (found == entry.end() || !found->is_array()) {
    return absl::DataLossError(absl::StrFormat("%s is not an array", key));
  }
  std::vector<int64_t> numbers;
  for (const Json& item : *found) {
    if (!item.is_number_unsigned() ||
        item.get<uint64_t>() > static_cast<uint64_t>(std::numeric_limits<int64_t>::max())) {
      return absl::DataLossError(absl::StrFormat("%s holds something not in [0, 2^63)", key));
    }
    numbers.push_back(item.get<int64_t>());
  }
  return numbers;
}

// One header entry; `data` is what follows the header.
absl::StatusOr<TensorView> ReadEntry(const Json& entry, std::span<const std::byte> data,
                                     Range& range) {
  if (!entry.is_object() || entry.size() != 3) {
    return absl::DataLossError("entry is not {dtype, shape, data_offsets}");
  }
  const auto dtype = entry.find("dtype");
  if (dtype == entry.end() || !dtype->is_string()) {
    return absl::DataLossError("dtype is not a string");
  }
  TensorView view;
  const auto type = TensorTypeFromName(dtype->get_ref<const std::string&>());
  if (!type.ok()) return absl::DataLossError(std::string(type.status().message()));
  view.type = *type;
  ASSIGN_OR_RETURN(view.shape, ReadNumbers(entry, "shape"));
  ASSIGN_OR_RETURN(const std::vector<int64_t> offsets, ReadNumbers(entry, "data_offsets"));
  if (offsets.size() != 2 || offsets[0] > offsets[1]) {
    return absl::DataLossError("data_offsets is not [begin, end] with begin <= end");
  }
  range = {static_cast<uint64_t>(offsets[0]), static_cast<uint64_t>(offsets[1])};
  if (range.end > data.size()) {
    return absl::DataLossError(
        absl::StrFormat("data_offsets end at %d, the file's data at %d", range.end, data.size()));
  }
  const auto size = ByteSize(view.type, view.shape);
  if (!size.ok()) return absl::DataLossError(std::string(size.status().message()));
  if (static_cast<uint64_t>(*size) != range.end - range.begin) {
    return absl::DataLossError(absl::StrFormat("shape needs %d bytes, data_offsets give %d", *size,
                                               range.end - range.begin));
  }
  view.bytes = data.subspan(range.begin, range.end - range.begin);
  return view;
}

// The ranges tile [0, size) exactly.
absl::Status CheckTiling(std::vector<Range> ranges, uint64_t size) {
  std::sort(ranges.begin(), ranges.end());
  uint64_t at = 0;
  for (const Range& range : ranges) {
    if (range.begin != at) {
      return absl::DataLossError(absl::StrFormat("tensors %s at byte %d of the data",
                                                 range.begin < at ? "overlap" : "leave a gap",
                                                 std::min(at, range.begin)));
    }
    at = range.end;
  }
  if (at != size) {
    return absl::DataLossError(absl::StrFormat("tensors end at %d, the data at %d", at, size));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::map<std::string, std::string>> ReadMetadata(const Json& entry) {
  if (!entry.is_object()) return absl::DataLossError("__metadata__ is not an object");
  std::map<std::string, std::string> metadata;
  for (const auto& [key, value] : entry.items()) {
    if (!value.is_string()) {
      return absl::DataLossError(absl::StrFormat("__metadata__.%s is not a string", key));
    }
    metadata[key] = value.get<std::string>();
  }
  return metadata;
}

absl::StatusOr<SafetensorsContents> Parse(std::span<const std::byte> file) {
  if (file.size() < kPrefix) return absl::DataLossError("shorter than the 8 bytes of its prefix");
  uint64_t header_size = 0;
  std::memcpy(&header_size, file.data(), kPrefix);
  if (header_size > kMaxHeader || header_size > file.size() - kPrefix) {
    return absl::DataLossError(absl::StrFormat("header of %d bytes in a file of %d (limit %d)",
                                               header_size, file.size(), kMaxHeader));
  }
  const std::string_view text(reinterpret_cast<const char*>(file.data()) + kPrefix, header_size);
  if (!text.starts_with('{')) return absl::DataLossError("header does not begin with '{'");
  ASSIGN_OR_RETURN(const Json header, ParseObject(text));
  const size_t data_begin = kPrefix + header_size;
  const auto data = file.subspan(data_begin);
  SafetensorsContents contents;
  std::vector<Range> ranges;
  for (const auto& [name, entry] : header.items()) {
    if (name == kMetadata) {
      ASSIGN_OR_RETURN(contents.metadata, ReadMetadata(entry));
      continue;
    }
    auto view = ReadEntry(entry, data, ranges.emplace_back());
    if (!view.ok()) {
      return absl::DataLossError(
          absl::StrFormat("tensor %s: %s", name, std::string(view.status().message())));
    }
    contents.tensors.emplace(name, *std::move(view));
  }
  RETURN_IF_ERROR(CheckTiling(std::move(ranges), data.size()));
  return contents;
}

// Checks what the caller hands over, and puts it in the order of the file.
absl::StatusOr<std::vector<const NamedTensor*>> OrderForWriting(
    std::span<const NamedTensor> tensors) {
  std::set<std::string_view> names;
  std::vector<const NamedTensor*> order;
  for (const NamedTensor& named : tensors) {
    if (named.name == kMetadata || !names.insert(named.name).second || !IsUtf8(named.name)) {
      return absl::InvalidArgumentError(
          absl::StrFormat("tensor name '%s' is reserved, given twice or not UTF-8", named.name));
    }
    ASSIGN_OR_RETURN(const int64_t size, ByteSize(named.tensor.type, named.tensor.shape));
    if (static_cast<size_t>(size) != named.tensor.bytes.size()) {
      return absl::InvalidArgumentError(absl::StrFormat("tensor %s: shape needs %d bytes, %d given",
                                                        named.name, size,
                                                        named.tensor.bytes.size()));
    }
    order.push_back(&named);
  }
  std::sort(order.begin(), order.end(), [](const NamedTensor* a, const NamedTensor* b) {
    return std::pair(-SizeOf(a->tensor.type), std::string_view(a->name)) <
           std::pair(-SizeOf(b->tensor.type), std::string_view(b->name));
  });
  return order;
}

}  // namespace

int64_t SizeOf(TensorType type) { return Row(type).size; }
std::string_view Name(TensorType type) { return Row(type).name; }

absl::StatusOr<TensorType> TensorTypeFromName(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return absl::InvalidArgumentError(absl::StrFormat("unknown tensor type '%s'", name));
}

absl::StatusOr<int64_t> ByteSize(TensorType type, std::span<const int64_t> shape) {
  int64_t size = SizeOf(type);
  for (const int64_t d : shape) {
    if (d < 0) return absl::InvalidArgumentError(absl::StrFormat("dimension %d is negative", d));
    if (__builtin_mul_overflow(size, d, &size)) {
      return absl::InvalidArgumentError("shape needs more than 2^63 - 1 bytes");
    }
  }
  return size;
}

absl::StatusOr<SafetensorsContents> ParseSafetensors(std::span<const std::byte> file,
                                                     std::string_view path) {
  auto contents = Parse(file);
  if (contents.ok()) return contents;
  return absl::DataLossError(
      absl::StrFormat("%s: %s", path, std::string(contents.status().message())));
}

absl::StatusOr<std::unique_ptr<SafetensorsFile>> SafetensorsFile::Open(const std::string& path) {
  const UniqueFd fd(
      open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));  // a pipe is not waited for
  if (fd.get() < 0) return IoError(errno, "open", path);
  struct stat info {};
  if (fstat(fd.get(), &info) != 0) return IoError(errno, "stat", path);
  if (!S_ISREG(info.st_mode) || info.st_size < static_cast<off_t>(kPrefix)) {
    return absl::DataLossError(path + ": not a regular file of at least 8 bytes");
  }
  const auto size = static_cast<size_t>(info.st_size);
  void* mapped = mmap(nullptr, size, PROT_READ, MAP_PRIVATE, fd.get(), 0);
  if (mapped == MAP_FAILED) return IoError(errno, "map", path);
  std::unique_ptr<SafetensorsFile> file(
      new SafetensorsFile({static_cast<const std::byte*>(mapped), size}));
  ASSIGN_OR_RETURN(SafetensorsContents contents, ParseSafetensors(file->mapped_, path));
  file->tensors_ = std::move(contents.tensors);
  file->metadata_ = std::move(contents.metadata);
  return file;
}

SafetensorsFile::~SafetensorsFile() {
  munmap(const_cast<std::byte*>(mapped_.data()), mapped_.size());
}

absl::Status WriteSafetensors(const std::string& path, std::span<const NamedTensor> tensors,
                              const std::map<std::string, std::string>& metadata) {
  ASSIGN_OR_RETURN(const std::vector<const NamedTensor*> order, OrderForWriting(tensors));
  Json header = Json::object();
  for (const auto& [key, value] : metadata) {
    if (!IsUtf8(key) || !IsUtf8(value)) {
      return absl::InvalidArgumentError(absl::StrFormat("metadata '%s' is not UTF-8", key));
    }
    header[std::string(kMetadata)][key] = value;
  }
  size_t offset = 0;
  for (const NamedTensor* named : order) {
    const size_t end = offset + named->tensor.bytes.size();
    header[named->name] = {{"dtype", std::string(Name(named->tensor.type))},
                           {"shape", named->tensor.shape},
                           {"data_offsets", {offset, end}}};
    offset = end;
  }
  std::string text = header.dump();
  text.append((8 - text.size() % 8) % 8, ' ');
  const uint64_t header_size = text.size();
  if (header_size > kMaxHeader) {
    return absl::InvalidArgumentError(
        absl::StrFormat("header of %d bytes exceeds %d", header_size, kMaxHeader));
  }
  ASSIGN_OR_RETURN(const auto file, DurableFile::Create(path));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(&header_size, 1))));
  RETURN_IF_ERROR(file->Append(std::as_bytes(std::span(text))));
  for (const NamedTensor* named : order) RETURN_IF_ERROR(file->Append(named->tensor.bytes));
  return file->Commit();
}

}  // namespace palimpsest::weights
