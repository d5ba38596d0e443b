#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "common/cuda/emulated_device.h"
#include "common/cuda/memory.h"

namespace palimpsest::cuda {
namespace {

constexpr int kUnwritten = 0xff;                 // of bytes: a NaN of every width
constexpr size_t kKeptBytes = size_t{32} << 20;  // of memory that was given back

struct GivenBack {
  unsigned char* data;
  size_t bytes;
};

void CheckUnwritten(const GivenBack& b) {
  if (std::all_of(b.data, b.data + b.bytes, [](unsigned char c) { return c == kUnwritten; }))
    return;
  std::fprintf(stderr, "emulation: memory was written after it was given back (%zu bytes)\n",
               b.bytes);
  std::abort();
}

// Lives as long as the process: memory may be given back at its very end.
struct Heap {
  std::mutex mu;
  std::map<void*, size_t> taken;
  std::deque<GivenBack> given_back;
  size_t kept_bytes = 0;
  int64_t takes = 0, fails_at = 0;

  void* Take(size_t bytes) {
    if (bytes == 0) return nullptr;
    const std::lock_guard lock(mu);
    if (++takes == fails_at)
      throw NoMemory("an allocation of " + std::to_string(bytes) + " bytes: out of memory");
    void* data = std::aligned_alloc(256, (bytes + 255) / 256 * 256);
    if (data == nullptr) throw std::bad_alloc();
    taken[data] = bytes;
    return std::memset(data, kUnwritten, bytes);
  }
  void Give(void* data) {
    if (data == nullptr) return;
    const std::lock_guard lock(mu);
    const auto found = taken.find(data);
    const GivenBack block = {static_cast<unsigned char*>(data), found->second};
    taken.erase(found);
    std::memset(data, kUnwritten, block.bytes);
    given_back.push_back(block);
    kept_bytes += block.bytes;
    for (; kept_bytes > kKeptBytes; given_back.pop_front()) {
      const GivenBack& oldest = given_back.front();
      CheckUnwritten(oldest);
      kept_bytes -= oldest.bytes;
      std::free(oldest.data);
    }
  }
};

Heap& heap() {
  static Heap& heap = *new Heap;
  return heap;
}

}  // namespace

int64_t FailTake(int64_t nth) {
  const std::lock_guard lock(heap().mu);
  heap().fails_at = nth;
  return std::exchange(heap().takes, 0);
}

void CheckGivenBack() {
  const std::lock_guard lock(heap().mu);
  for (const GivenBack& block : heap().given_back) CheckUnwritten(block);
}

std::string WhyNoDevice() { return {}; }
const char* PlatformName() { return "emulated"; }

OwnedStream::OwnedStream() = default;
OwnedStream::~OwnedStream() = default;

void* OnDevice::Take(size_t bytes) {
  RefuseInCapture("an allocation");
  return heap().Take(bytes);
}
void OnDevice::Give(void* data) noexcept { heap().Give(data); }
void* OnHost::Take(size_t bytes) { return heap().Take(bytes); }
void OnHost::Give(void* data) noexcept { heap().Give(data); }

void CopyToDevice(void* to, const void* from, size_t bytes, Stream stream) {
  CopyOnDevice(to, from, bytes, stream);
}
void CopyFromDevice(void* to, const void* from, size_t bytes, Stream stream) {
  CopyOnDevice(to, from, bytes, stream);
}
void CopyOnDevice(void* to, const void* from, size_t bytes, Stream) {
  Submit([=] { std::memcpy(to, from, bytes); });
}
void CopyRowsOnDevice(void* to, const void* from, size_t pitch, size_t bytes, size_t rows, Stream) {
  Submit([=] {
    for (size_t r = 0; r < rows; ++r) {
      std::memcpy(static_cast<char*>(to) + r * pitch, static_cast<const char*>(from) + r * pitch,
                  bytes);
    }
  });
}
void Wait(Stream) { RefuseInCapture("a wait"); }

}  // namespace palimpsest::cuda
