#include <cuda_runtime.h>
#include <gtest/gtest.h>

#include <numeric>

#include "common/attention/cuda/decode.h"
#include "tests/gpu/device_array.h"
#include "tests/gpu/numbers.h"

namespace palimpsest::attention {
namespace {

using gpu_testing::DeviceArray;
using gpu_testing::Normals;

// A decode step is captured once; which slots its rows see, and their queries, change from step to
// step in device memory.
TEST(DecodeGraphTest, AReplayedGraphSeesTheSlotsAndQueriesOfItsStep) {
  constexpr int kRows = 3, kHeads = 8, kKvHeads = 2, kD = 128, kPages = 40, kMost = kPages * 16;
  std::mt19937 rng(1);
  const size_t places = size_t{kRows} * kMost * kKvHeads, width = size_t{kRows} * kHeads * kD;
  const DeviceArray<BFloat16> k(Normals<BFloat16>(rng, places * kD, 1.5)),
      v(Normals<BFloat16>(rng, places * kD, 1)), o(width), o_direct(width);
  DeviceArray<BFloat16> q(width);
  const DeviceArray<float> bias(Normals<float>(rng, places, 1)),
      scratch(DecodeScratch(kRows, kHeads, kD, kMost));
  std::vector<int32_t> pages(kRows * kPages);
  std::iota(pages.begin(), pages.end(), 0);
  const DeviceArray<int32_t> tables(pages);
  DeviceArray<int32_t> slots(kRows * kKvHeads);
  DecodeBatch<BFloat16> batch{.cache = {k.data(), v.data(), bias.data(), kKvHeads, kD},
                              .q = q.data(),
                              .o = o.data(),
                              .tables = tables.data(),
                              .slots = slots.data(),
                              .scratch = scratch.data(),
                              .rows = kRows,
                              .heads = kHeads,
                              .table_pages = kPages,
                              .max_slots = kMost,
                              .scale = 0.09f};
  cudaStream_t stream;
  ASSERT_EQ(cudaStreamCreate(&stream), cudaSuccess);
  slots.Write(std::vector<int32_t>(kRows * kKvHeads, 1));
  q.Write(Normals<BFloat16>(rng, width, 1.5));
  ASSERT_TRUE(Decode(batch, stream).ok());  // loads the kernels, which a capture must not
  gpu_testing::WaitForKernels();
  ASSERT_EQ(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal), cudaSuccess);
  const cuda::Launched captured = Decode(batch, stream);
  ASSERT_TRUE(captured.ok()) << captured.error;
  cudaGraph_t graph;
  cudaGraphExec_t step;
  ASSERT_EQ(cudaStreamEndCapture(stream, &graph), cudaSuccess);
  ASSERT_EQ(cudaGraphInstantiate(&step, graph, 0), cudaSuccess);
  std::vector<BFloat16> before;
  for (const std::vector<int32_t>& seen : {std::vector<int32_t>{1, 2, 300, 17, kMost, 256},
                                           std::vector<int32_t>{2, 3, 301, 18, 40, 257}}) {
    slots.Write(seen);
    q.Write(Normals<BFloat16>(rng, width, 1.5));
    ASSERT_EQ(cudaGraphLaunch(step, stream), cudaSuccess);
    batch.o = o_direct.data();
    gpu_testing::WaitForKernels();
    ASSERT_TRUE(Decode(batch, nullptr).ok());
    const std::vector<BFloat16> got = o.Read(), direct = o_direct.Read();
    for (size_t i = 0; i < width; ++i) ASSERT_EQ(got[i].bits, direct[i].bits) << i;
    if (!before.empty()) {
      EXPECT_NE(got[0].bits, before[0].bits);
    }
    before = got;
  }
  cudaGraphExecDestroy(step), cudaGraphDestroy(graph), cudaStreamDestroy(stream);
}

}  // namespace
}  // namespace palimpsest::attention
