#pragma once

#include <cuda_runtime.h>

#include <cstdint>
#include <functional>
#include <string>

#include "common/cuda/launch.h"

// Times on a GPU, as rows of a table.
namespace palimpsest::gpu_testing {

// Median milliseconds of `work` on `stream` over `repetitions`, by device events, captured as a
// graph (launches cost nothing) after a warm-up. Ends the process when a launch is refused.
double MedianMilliseconds(const std::function<cuda::Launched(cudaStream_t)>& work,
                          int repetitions = 21);

// Of one run, for what takes seconds. Kernels are loaded by who ran them before.
double OnceMilliseconds(const std::function<cuda::Launched(cudaStream_t)>& work);

// Bytes read and written by a large copy on the device, per second.
double CopyBandwidth();

// | what | milliseconds | GB/s (share of the copy's) | TFLOP/s |; 0 bytes or operations: a dash.
void PrintRow(const std::string& what, double milliseconds, double bytes, double operations);

void BenchRows();
void BenchEvents();
void BenchSegments();
// A shared prompt against one copy per response at the lengths of long prompts, a table of its own.
void BenchPrompts();

}  // namespace palimpsest::gpu_testing
