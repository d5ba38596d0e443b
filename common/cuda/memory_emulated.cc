#include <cstdlib>
#include <cstring>
#include <new>

#include "common/cuda/memory.h"

namespace palimpsest::cuda {
namespace {

constexpr int kUnwritten = 0xff;  // of bytes: a NaN of every width

void* Unwritten(size_t bytes) {
  if (bytes == 0) return nullptr;
  void* data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
  if (data == nullptr) throw std::bad_alloc();
  return std::memset(data, kUnwritten, bytes);
}

}  // namespace

std::string WhyNoDevice() { return {}; }
const char* PlatformName() { return "emulated"; }

OwnedStream::OwnedStream() = default;
OwnedStream::~OwnedStream() = default;

void* OnDevice::Take(size_t bytes) { return Unwritten(bytes); }
void OnDevice::Give(void* data) noexcept { std::free(data); }
void* OnHost::Take(size_t bytes) { return Unwritten(bytes); }
void OnHost::Give(void* data) noexcept { std::free(data); }

void CopyToDevice(void* to, const void* from, size_t bytes, Stream) {
  std::memcpy(to, from, bytes);
}
void CopyFromDevice(void* to, const void* from, size_t bytes, Stream) {
  std::memcpy(to, from, bytes);
}
void CopyOnDevice(void* to, const void* from, size_t bytes, Stream) {
  std::memcpy(to, from, bytes);
}
void CopyRowsOnDevice(void* to, const void* from, size_t pitch, size_t bytes, size_t rows, Stream) {
  for (size_t r = 0; r < rows; ++r) {
    std::memcpy(static_cast<char*>(to) + r * pitch, static_cast<const char*>(from) + r * pitch,
                bytes);
  }
}
void Wait(Stream) {}

}  // namespace palimpsest::cuda
