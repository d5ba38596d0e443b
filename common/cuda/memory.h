#pragma once

#include <cstddef>
#include <new>
#include <string>
#include <utility>

#include "common/cuda/launch.h"

// Memory and streams of a GPU, owned; under the emulation the host's memory, where a stream is
// nothing and copies are done at once. Whoever includes this needs no CUDA headers. What fails
// throws std::runtime_error naming the call, or NoMemory with the bytes.
namespace palimpsest::cuda {

// There is none: nothing else is wrong, who asked may go on without.
class NoMemory final : public std::bad_alloc {
 public:
  explicit NoMemory(std::string what) : what_(std::move(what)) {}
  const char* what() const noexcept override { return what_.c_str(); }

 private:
  std::string what_;
};

// Is there a GPU (or the emulation)? Empty, or why not.
std::string WhyNoDevice();
const char* PlatformName();  // "cuda" or "emulated"

class OwnedStream {
 public:
  OwnedStream();
  ~OwnedStream();
  OwnedStream(const OwnedStream&) = delete;
  OwnedStream& operator=(const OwnedStream&) = delete;
  Stream get() const { return stream_; }

 private:
  Stream stream_ = nullptr;
};

// Where memory is. Take gives nullptr for no bytes; Give takes that back, too.
struct OnDevice {
  static void* Take(size_t bytes);
  static void Give(void* data) noexcept;
};
struct OnHost {
  static void* Take(size_t bytes);
  static void Give(void* data) noexcept;
};

template <class Place>
class Memory {
 public:
  Memory() = default;
  explicit Memory(size_t bytes) : data_(Place::Take(bytes)), bytes_(bytes) {}
  ~Memory() { Place::Give(data_); }
  Memory(Memory&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), bytes_(std::exchange(other.bytes_, 0)) {}
  Memory& operator=(Memory&& other) noexcept {
    std::swap(data_, other.data_);
    std::swap(bytes_, other.bytes_);
    return *this;
  }

  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Bytes that kernels see, at a multiple of 256; under the emulation NaN until they are written.
using DeviceMemory = Memory<OnDevice>;
// Bytes on the host that copies to and from a GPU do not have to stage.
using HostMemory = Memory<OnHost>;

// Put into the stream; memory on the host stays as it is until Wait.
void CopyToDevice(void* to, const void* from, size_t bytes, Stream stream);
void CopyFromDevice(void* to, const void* from, size_t bytes, Stream stream);
void CopyOnDevice(void* to, const void* from, size_t bytes, Stream stream);
// `rows` pieces of `bytes`, `pitch` bytes apart in both.
void CopyRowsOnDevice(void* to, const void* from, size_t pitch, size_t bytes, size_t rows,
                      Stream stream);
// Until all of the stream is done; throws what went wrong in it.
void Wait(Stream stream);

// Throws what a launch was refused for.
void Require(const Launched& launched);

}  // namespace palimpsest::cuda
