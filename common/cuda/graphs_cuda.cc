#include <cuda_runtime.h>

#include <map>
#include <set>
#include <stdexcept>
#include <string>

#include "common/cuda/graphs.h"

namespace palimpsest::cuda {
namespace {

void Check(cudaError_t error, const char* what) {
  if (error != cudaSuccess)
    throw std::runtime_error(std::string(what) + ": " + cudaGetErrorString(error));
}

}  // namespace

struct Graphs::Captured {
  std::set<Shape> ran;
  std::map<Shape, cudaGraphExec_t> graphs;
};

Graphs::Graphs() : captured_(std::make_unique<Captured>()) {}
Graphs::~Graphs() { Forget(); }

void Graphs::Forget() {
  for (const auto& [shape, graph] : captured_->graphs) cudaGraphExecDestroy(graph);
  captured_->graphs.clear();
}

void Graphs::Run(Shape shape, Stream stream, const std::function<void()>& work) {
  if (captured_->ran.insert(shape).second) return work();
  auto found = captured_->graphs.find(shape);
  if (found == captured_->graphs.end()) {
    // Of this thread: others may take memory for new weights meanwhile.
    Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin of a graph");
    cudaGraph_t graph = nullptr;
    try {
      work();
    } catch (...) {
      cudaStreamEndCapture(stream, &graph);
      cudaGraphDestroy(graph);
      throw;
    }
    Check(cudaStreamEndCapture(stream, &graph), "end of a graph");
    cudaGraphExec_t made = nullptr;
    const cudaError_t error = cudaGraphInstantiate(&made, graph, 0);
    cudaGraphDestroy(graph);
    Check(error, "instantiation of a graph");
    found = captured_->graphs.emplace(shape, made).first;
  }
  Check(cudaGraphLaunch(found->second, stream), "launch of a graph");
}

}  // namespace palimpsest::cuda
