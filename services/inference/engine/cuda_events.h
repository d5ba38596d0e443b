#pragma once

#include <span>
#include <vector>

#include "common/compaction/cuda/head_facts.h"
#include "services/inference/engine/cuda_pass.h"

namespace palimpsest::inference {

// StepDevice::Solve on a device. Heads are problems of their own; those of one kind go side by
// side, as many as have room in the workspace.
template <class Stored>
class DeviceEvents {
 public:
  DeviceEvents(const model::ModelConfig& config, const DevicePool<Stored>& pool,
               cuda::Stream stream, DeviceShelf& shelf)
      : config_(config), pool_(pool), stream_(stream), shelf_(shelf), inputs_(shelf) {}

  void Solve(int layer, int first_head, int heads, std::span<EventTask> events);

 private:
  struct Problem;
  struct Arrays;
  Problem Describe(int layer, int head, EventTask& event, size_t answer) const;
  void PlaceReferences(int layer, std::span<EventTask> events,
                       std::vector<const Stored*>& references);
  void SolveAlike(int layer, std::span<Problem*> problems,
                  std::span<const Stored* const> references);
  Arrays Upload(int layer, std::span<Problem*> problems, std::span<const Stored* const> references);
  void PlaceAnswers(size_t count, Arrays& arrays);
  void Launch(const Arrays& arrays, std::span<Problem*> problems);
  void Take(const Arrays& arrays, std::span<Problem*> problems);

  const model::ModelConfig& config_;
  const DevicePool<Stored>& pool_;
  cuda::Stream stream_;
  DeviceShelf& shelf_;
  DeviceUpload inputs_;
  cuda::DeviceMemory workspace_, answers_, references_;
  cuda::HostMemory answers_here_;
};

}  // namespace palimpsest::inference
