#pragma once

#include <string>

struct CUstream_st;

// What every header of kernels speaks of: no CUDA headers are needed to call a kernel.
namespace palimpsest::cuda {

using Stream = CUstream_st*;  // a cudaStream_t; nullptr: the default stream

// What a launch answers at once. Kernels run later: what goes wrong then is told by the stream.
struct [[nodiscard]] Launched {
  std::string error = {};  // names argument and value; empty: it stands in the stream
  bool ok() const { return error.empty(); }
};

}  // namespace palimpsest::cuda
