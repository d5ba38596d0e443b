#pragma once

#include <functional>
#include <map>
#include <memory>
#include <set>
#include <span>
#include <utility>
#include <vector>

#include "common/cuda/launch.h"

namespace palimpsest::cuda {

// Work that was captured from a stream and not run.
class Graph {
 public:
  Graph(Stream stream, const std::function<void()>& work);
  ~Graph();
  Graph(const Graph&) = delete;
  Graph& operator=(const Graph&) = delete;
  void Replay(Stream stream) const;

 private:
  struct Work;
  std::unique_ptr<Work> work_;
};

// Work of one shape that is put into a stream again and again. The first time runs it (what loads
// kernels and makes handles must not be captured), the one after captures it as a graph, later ones
// replay that: the work must do the same with the same memory each time.
class Graphs {
 public:
  using Shape = std::pair<int, int>;
  // `places`: all memory that the work knows of and that may move. Graphs that were captured with
  // other places are forgotten before anything is replayed, whatever happened since: who moves
  // memory, and fails in the middle of it, has nobody to tell.
  void Run(Shape shape, std::span<const void* const> places, Stream stream,
           const std::function<void()>& work);

 private:
  std::set<Shape> ran_;  // to their end
  std::vector<const void*> places_;
  std::map<Shape, Graph> graphs_;
};

}  // namespace palimpsest::cuda
