#include "tests/gpu/bench.h"

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "tests/gpu/device_array.h"

namespace palimpsest::gpu_testing {
namespace {

void Check(cudaError_t error, const char* what) {
  if (error == cudaSuccess) return;
  std::fprintf(stderr, "%s: %s\n", what, cudaGetErrorString(error));
  std::exit(2);
}

void Launch(const std::function<cuda::Launched(cudaStream_t)>& work, cudaStream_t stream) {
  const cuda::Launched launched = work(stream);
  if (launched.ok()) return;
  std::fprintf(stderr, "a launch was refused: %s\n", launched.error.c_str());
  std::exit(2);
}

// Milliseconds between `begin` and `end`, once `end` has come.
float Between(cudaEvent_t begin, cudaEvent_t end) {
  Check(cudaEventSynchronize(end), "a run");
  float milliseconds = 0;
  Check(cudaEventElapsedTime(&milliseconds, begin, end), "event");
  return milliseconds;
}

}  // namespace

double MedianMilliseconds(const std::function<cuda::Launched(cudaStream_t)>& work,
                          int repetitions) {
  cudaStream_t stream;
  Check(cudaStreamCreate(&stream), "cudaStreamCreate");
  const auto run = [&] { Launch(work, stream); };
  run();  // loads the kernels, which a capture must not
  Check(cudaStreamSynchronize(stream), "the first run");
  Check(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), "capture");
  run();
  cudaGraph_t graph;
  cudaGraphExec_t replay;
  Check(cudaStreamEndCapture(stream, &graph), "capture");
  Check(cudaGraphInstantiate(&replay, graph, 0), "graph");
  cudaEvent_t begin, end;
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  std::vector<float> times;
  for (int i = -3; i < repetitions; ++i) {
    Check(cudaEventRecord(begin, stream), "event");
    Check(cudaGraphLaunch(replay, stream), "graph");
    Check(cudaEventRecord(end, stream), "event");
    const float milliseconds = Between(begin, end);
    if (i >= 0) times.push_back(milliseconds);
  }
  cudaEventDestroy(begin), cudaEventDestroy(end);
  cudaGraphExecDestroy(replay), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
  std::nth_element(times.begin(), times.begin() + repetitions / 2, times.end());
  return times[repetitions / 2];
}

double OnceMilliseconds(const std::function<cuda::Launched(cudaStream_t)>& work) {
  cudaStream_t stream;
  cudaEvent_t begin, end;
  Check(cudaStreamCreate(&stream), "cudaStreamCreate");
  Check(cudaEventCreate(&begin), "event");
  Check(cudaEventCreate(&end), "event");
  Check(cudaEventRecord(begin, stream), "event");
  Launch(work, stream);
  Check(cudaEventRecord(end, stream), "event");
  const float milliseconds = Between(begin, end);
  cudaEventDestroy(begin), cudaEventDestroy(end), cudaStreamDestroy(stream);
  return milliseconds;
}

double CopyBandwidth() {
  static const double bandwidth = [] {
    constexpr size_t kBytes = size_t{2} << 30;
    const DeviceBytes from(kBytes), to(kBytes);
    const double milliseconds = MedianMilliseconds([&](cudaStream_t stream) {
      Check(cudaMemcpyAsync(to.data(), from.data(), kBytes, cudaMemcpyDeviceToDevice, stream),
            "copy");
      return cuda::Launched{};
    });
    return 2 * kBytes / milliseconds * 1e3;
  }();
  return bandwidth;
}

void PrintRow(const std::string& what, double milliseconds, double bytes, double operations) {
  std::printf("| %s | %.4f | ", what.c_str(), milliseconds);
  if (bytes > 0) {
    const double rate = bytes / milliseconds * 1e3;
    std::printf("%.0f (%.2f) | ", rate * 1e-9, rate / CopyBandwidth());
  } else {
    std::printf("- | ");
  }
  if (operations > 0) {
    std::printf("%.1f |\n", operations / milliseconds * 1e-9);
  } else {
    std::printf("- |\n");
  }
  std::fflush(stdout);
}

}  // namespace palimpsest::gpu_testing

int main(int argc, char** argv) {
  using namespace palimpsest::gpu_testing;
  const bool prompts = argc == 2 && std::string_view(argv[1]) == "prompts";
  if (argc > 1 && !prompts) {
    std::fprintf(stderr, "usage: gpu_bench [prompts] (got: %s)\n", argv[1]);
    return 2;
  }
  std::printf("%s, copy on the device %.0f GB/s (read and written)\n\n", DeviceName(),
              CopyBandwidth() * 1e-9);
  if (prompts) {
    BenchPrompts();
    return 0;
  }
  std::printf("| what | ms | GB/s (of the copy's) | TFLOP/s |\n|---|---|---|---|\n");
  BenchRows();
  BenchEvents();
  BenchSegments();
}
