#pragma once

#include <functional>
#include <memory>
#include <utility>

#include "common/cuda/launch.h"

namespace palimpsest::cuda {

// Work of one shape that is put into a stream again and again. On a GPU the first time runs it
// (what loads kernels and makes handles must not be captured), the second captures it as a graph,
// later ones replay that: the work must do the same with the same memory each time. Under the
// emulation it runs each time.
class Graphs {
 public:
  using Shape = std::pair<int, int>;
  Graphs();
  ~Graphs();
  void Run(Shape shape, Stream stream, const std::function<void()>& work);
  // All of them: their memory has moved.
  void Forget();

 private:
  struct Captured;
  std::unique_ptr<Captured> captured_;
};

}  // namespace palimpsest::cuda
