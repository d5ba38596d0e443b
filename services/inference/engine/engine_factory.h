#pragma once

#include "common/base/clock.h"
#include "services/inference/core/engine.h"

namespace palimpsest::inference {

struct EngineOptions {
  std::string model_folder;    // Hugging Face folder
  bool with_tokenizer = true;  // a tokenizer.json in it is used when it is there
  PolicyVersion version;
  std::string dtype = "float32";  // or "bfloat16"
  std::string device = "cpu";     // or "cuda": weights, KV pool, steps and events on a GPU
  bool emulated = false;          // "cuda" by its kernels' emulation on the CPU: for tests alone
  int threads = 2;                // of one forward pass
  // The same request gives the same bits alone, among others and however its prompt is chunked.
  // Sums run in one order and each event is solved by itself, head by head, which costs time.
  bool batch_invariant = false;
  Limits limits;
  Clock* clock = nullptr;  // absent: the system's
  EngineObserver observer;
};

// Is `device` a name that this build knows? The machine is asked by MakeEngine.
absl::Status CheckDevice(const std::string& device, bool emulated = false);

// Loads the model and starts the engine's thread.
absl::StatusOr<std::unique_ptr<Engine>> MakeEngine(EngineOptions options);

}  // namespace palimpsest::inference
