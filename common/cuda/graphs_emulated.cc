#include <stdexcept>
#include <string>
#include <utility>

#include "common/cuda/emulated_device.h"
#include "common/cuda/graphs.h"

namespace palimpsest::cuda {
namespace {

thread_local std::vector<std::function<void()>>* captured = nullptr;

}  // namespace

void Submit(std::function<void()> work) {
  if (captured == nullptr) return work();
  captured->push_back(std::move(work));
}

std::vector<std::function<void()>> Captured(const std::function<void()>& capture) {
  std::vector<std::function<void()>> work;
  captured = &work;
  try {
    capture();
  } catch (...) {
    captured = nullptr;
    throw;
  }
  captured = nullptr;
  return work;
}

void RefuseInCapture(const char* what) {
  if (captured != nullptr)
    throw std::runtime_error(std::string(what) + " while a graph is captured");
}

struct Graph::Work {
  explicit Work(std::vector<std::function<void()>> work) : submitted(std::move(work)) {}
  std::vector<std::function<void()>> submitted;  // arguments are those of the capture
};

Graph::Graph(Stream, const std::function<void()>& work)
    : work_(std::make_unique<Work>(Captured(work))) {}
Graph::~Graph() = default;

void Graph::Replay(Stream) const {
  for (const auto& work : work_->submitted) work();
}

}  // namespace palimpsest::cuda
