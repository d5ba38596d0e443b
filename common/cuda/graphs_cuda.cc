#include "common/cuda/check_cuda.h"
#include "common/cuda/graphs.h"

namespace palimpsest::cuda {

struct Graph::Work {
  cudaGraphExec_t graph = nullptr;
  ~Work() { Ignore(cudaGraphExecDestroy(graph)); }
};

Graph::Graph(Stream stream, const std::function<void()>& work) : work_(std::make_unique<Work>()) {
  // Of this thread: others may take memory for new weights meanwhile.
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeThreadLocal), "begin of a graph");
  cudaGraph_t graph = nullptr;
  try {
    work();
  } catch (...) {
    Ignore(cudaStreamEndCapture(stream, &graph));
    if (graph != nullptr) Ignore(cudaGraphDestroy(graph));
    throw;
  }
  Check(cudaStreamEndCapture(stream, &graph), "end of a graph");
  const cudaError_t error = cudaGraphInstantiate(&work_->graph, graph, 0);
  Ignore(cudaGraphDestroy(graph));
  Check(error, "instantiation of a graph");
}
Graph::~Graph() = default;

void Graph::Replay(Stream stream) const {
  Check(cudaGraphLaunch(work_->graph, stream), "launch of a graph");
}

}  // namespace palimpsest::cuda
