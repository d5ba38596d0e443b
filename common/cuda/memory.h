#pragma once

#include <cstddef>

#include "common/cuda/launch.h"

// Memory and streams of a GPU, owned; under the emulation the host's memory, where a stream is
// nothing and copies are done at once. Whoever includes this needs no CUDA headers. What fails
// throws std::runtime_error naming the call and, of memory, the bytes.
namespace palimpsest::cuda {

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

// Bytes that kernels see, at a multiple of 256; under the emulation NaN until they are written.
class DeviceMemory {
 public:
  DeviceMemory() = default;
  explicit DeviceMemory(size_t bytes);
  ~DeviceMemory();
  DeviceMemory(DeviceMemory&& other) noexcept;
  DeviceMemory& operator=(DeviceMemory&& other) noexcept;

  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

// Bytes on the host that copies to and from a GPU do not have to stage.
class HostMemory {
 public:
  HostMemory() = default;
  explicit HostMemory(size_t bytes);
  ~HostMemory();
  HostMemory(HostMemory&& other) noexcept;
  HostMemory& operator=(HostMemory&& other) noexcept;

  size_t bytes() const { return bytes_; }
  template <class T>
  T* as() const {
    return static_cast<T*>(data_);
  }

 private:
  void* data_ = nullptr;
  size_t bytes_ = 0;
};

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
