#include "common/telemetry/event_file.h"

#include <array>
#include <bit>
#include <cstring>
#include <filesystem>

namespace palimpsest {
namespace {

static_assert(std::endian::native == std::endian::little, "records are little-endian");

// The messages Event {1: wall_time, 2: step, 3: file_version, 5: summary}, Summary {1: value} and
// Value {1: tag, 2: simple_value} of tensorflow/core, on the wire. Wall time and step come first
// and always, so that a step is found without parsing the rest.
constexpr char kDoubleOf1 = 0x09, kVarintOf2 = 0x10, kTextOf3 = 0x1a, kMessageOf5 = 0x2a;
constexpr char kMessageOf1 = 0x0a, kTextOf1 = 0x0a, kFloatOf2 = 0x15;
constexpr size_t kStepAt = 1 + sizeof(double);
constexpr char kFormat[] = "brain.Event:2";

template <class T>
std::string Raw(T value) {
  std::string bytes(sizeof(T), '\0');
  std::memcpy(bytes.data(), &value, sizeof(T));
  return bytes;
}

std::string Varint(uint64_t value) {
  std::string bytes;
  for (; value >= 0x80; value >>= 7) bytes += static_cast<char>(value | 0x80);
  return bytes + static_cast<char>(value);
}

std::string Field(char key, const std::string& content) {
  return key + Varint(content.size()) + content;
}

std::string Header(absl::Time at, int64_t step) {
  return kDoubleOf1 + Raw(absl::ToDoubleSeconds(at - absl::UnixEpoch())) + kVarintOf2 +
         Varint(static_cast<uint64_t>(step));
}

// Event number `step` of a record; nullopt: not of our making, or without scalars.
std::optional<int64_t> StepOf(std::string_view event) {
  if (event.size() <= kStepAt || event[0] != kDoubleOf1 || event[kStepAt] != kVarintOf2) {
    return std::nullopt;
  }
  uint64_t step = 0;
  size_t at = kStepAt + 1;
  for (int shift = 0; at < event.size() && shift < 64; shift += 7) {
    const auto byte = static_cast<unsigned char>(event[at++]);
    step |= static_cast<uint64_t>(byte & 0x7f) << shift;
    if ((byte & 0x80) != 0) continue;
    if (at >= event.size() || event[at] != kMessageOf5) return std::nullopt;
    return static_cast<int64_t>(step);
  }
  return std::nullopt;
}

constexpr std::array<uint32_t, 256> MakeTable() {
  std::array<uint32_t, 256> table{};
  for (uint32_t i = 0; i < 256; ++i) {
    uint32_t crc = i;
    for (int bit = 0; bit < 8; ++bit) crc = (crc >> 1) ^ ((crc & 1) != 0 ? 0x82f63b78u : 0u);
    table[i] = crc;
  }
  return table;
}

}  // namespace

uint32_t MaskedCrc32c(std::string_view bytes) {
  static constexpr std::array<uint32_t, 256> kTable = MakeTable();
  uint32_t crc = ~0u;
  for (const char c : bytes)
    crc = kTable[(crc ^ static_cast<unsigned char>(c)) & 0xff] ^ (crc >> 8);
  crc = ~crc;
  return ((crc >> 15) | (crc << 17)) + 0xa282ead8u;
}

absl::StatusOr<std::unique_ptr<EventFile>> EventFile::Create(const std::string& path,
                                                             absl::Time now) {
  if (std::filesystem::exists(path)) return absl::AlreadyExistsError(path + " is there already");
  std::ofstream stream(path, std::ios::binary);
  std::unique_ptr<EventFile> file(new EventFile(path, std::move(stream)));
  const absl::Status status = file->Append(Header(now, 0) + Field(kTextOf3, kFormat));
  if (!status.ok()) return status;
  return file;
}

absl::Status EventFile::Add(absl::Time at, int64_t step, const std::vector<Scalar>& scalars) {
  std::string summary;
  for (const Scalar& scalar : scalars) {
    summary += Field(kMessageOf1, Field(kTextOf1, scalar.tag) + kFloatOf2 +
                                      Raw(static_cast<float>(scalar.value)));
  }
  return Append(Header(at, step) + Field(kMessageOf5, summary));
}

// A TFRecord: length, its checksum, the bytes, their checksum.
absl::Status EventFile::Append(const std::string& event) {
  const std::string length = Raw(static_cast<uint64_t>(event.size()));
  file_ << length << Raw(MaskedCrc32c(length)) << event << Raw(MaskedCrc32c(event)) << std::flush;
  return file_.good() ? absl::OkStatus() : absl::InternalError("cannot write " + path_);
}

std::optional<int64_t> LastStepOfEventFile(const std::string& path) {
  constexpr uint64_t kMaxEvent = 1 << 20;
  std::ifstream file(path, std::ios::binary);
  std::optional<int64_t> last;
  uint64_t size = 0;
  uint32_t crc = 0;
  while (file.read(reinterpret_cast<char*>(&size), sizeof(size)) &&
         file.read(reinterpret_cast<char*>(&crc), sizeof(crc)) && size <= kMaxEvent) {
    std::string event(size, '\0');
    if (!file.read(event.data(), static_cast<std::streamsize>(size)) ||
        !file.read(reinterpret_cast<char*>(&crc), sizeof(crc)) || crc != MaskedCrc32c(event)) {
      break;
    }
    if (const auto step = StepOf(event); step.has_value()) last = step;
  }
  return last;
}

}  // namespace palimpsest
