#include "common/cuda/emulation.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/cuda/device.cuh"
#include "tests/gpu/device_array.h"

namespace palimpsest::cuda {
namespace {

constexpr int kThreads = 96;

// Each thread adds what its right neighbour left in shared memory.
void AddNeighbour(int* out, bool with_barrier) {
  int* shared = SharedMemory<int>();
  shared[threadIdx.x] = static_cast<int>(10 * threadIdx.x);
  if (with_barrier) __syncthreads();
  out[blockIdx.x * kThreads + threadIdx.x] = shared[(threadIdx.x + 1) % kThreads];
}

std::vector<int> Neighbours(bool with_barrier) {
  std::vector<int> out(2 * kThreads, -1);
  EXPECT_TRUE(Launch(AddNeighbour, {{2, 1, 1}, kThreads, kThreads * sizeof(int)}, nullptr,
                     out.data(), with_barrier)
                  .ok());
  return out;
}

TEST(EmulationTest, RunsAllThreadsOfABlockUpToABarrierBeforeAnyGoesOn) {
  for (const uint64_t seed : {0, 1, 2}) {
    ShuffleThreads(seed);
    const std::vector<int> out = Neighbours(true);
    for (int i = 0; i < 2 * kThreads; ++i) EXPECT_EQ(out[i], 10 * ((i + 1) % kThreads));
  }
  ShuffleThreads(0);
}

TEST(EmulationTest, ShowsAMissingBarrierByAnotherOrderOfThreads) {
  ShuffleThreads(1);
  const std::vector<int> one = Neighbours(false);
  ShuffleThreads(2);
  EXPECT_NE(one, Neighbours(false));
  ShuffleThreads(0);
}

void SumUp(float* out) {
  out[threadIdx.x] = LaneSum(static_cast<float>(threadIdx.x));
  out[kThreads + threadIdx.x] = LaneSum<8>(static_cast<float>(threadIdx.x));
  out[2 * kThreads + threadIdx.x] =
      BlockSum(static_cast<float>(threadIdx.x), SharedMemory<float>());
  out[3 * kThreads + threadIdx.x] =
      BlockMax(static_cast<float>(threadIdx.x), SharedMemory<float>());
}

TEST(EmulationTest, SumsOverLanesAndBlocks) {
  std::vector<float> out(4 * kThreads);
  ASSERT_TRUE(Launch(SumUp, {{1, 1, 1}, kThreads, 3 * sizeof(float)}, nullptr, out.data()).ok());
  for (int i = 0; i < kThreads; ++i) {
    EXPECT_EQ(out[i], i / 32 * 32 * 32 + 31 * 16);
    EXPECT_EQ(out[kThreads + i], i / 8 * 8 * 8 + 28);
    EXPECT_EQ(out[2 * kThreads + i], kThreads * (kThreads - 1) / 2);
    EXPECT_EQ(out[3 * kThreads + i], kThreads - 1);
  }
}

void ReadUnwritten(float* out) { out[threadIdx.x] = SharedMemory<float>()[threadIdx.x]; }
void WaitAlone() {
  if (threadIdx.x != 5) __syncthreads();
}
void WritePast(int bytes) { SharedMemory<char>()[bytes] = 0; }

TEST(EmulationTest, GivesUnwrittenSharedMemoryAsNan) {
  std::vector<float> out(32, 0);
  ASSERT_TRUE(Launch(ReadUnwritten, {{1, 1, 1}, 32, 128}, nullptr, out.data()).ok());
  for (const float x : out) EXPECT_NE(x, x);
}

void LoadAt(const float* from, float* to) { to[0] = LoadChunk(from).x[0]; }
void WriteAt(int* to, int at) { to[at] = 1; }

TEST(EmulationDeathTest, EndsOnMisalignedLoadsAndOnWritesPastAnArray) {
  const gpu_testing::DeviceArray<float> floats(16);
  EXPECT_DEATH(static_cast<void>(
                   Launch(LoadAt, {{1, 1, 1}, 32, 0}, nullptr, floats.data() + 1, floats.data())),
               "misaligned");
  const gpu_testing::DeviceArray<int> ints(16);
  for (const int at : {-1, 16}) {
    const auto write = [&] {
      static_cast<void>(Launch(WriteAt, {{1, 1, 1}, 32, 0}, nullptr, ints.data(), at));
      ints.Read();
    };
    EXPECT_DEATH(write(), "wrote outside an array of 64 bytes");
  }
}

TEST(EmulationDeathTest, EndsOnABarrierThatNotAllReachAndOnWritesPastSharedMemory) {
  EXPECT_DEATH(static_cast<void>(Launch(WaitAlone, {{1, 1, 1}, 64, 0}, nullptr)),
               "waits at a barrier that others do not reach");
  EXPECT_DEATH(static_cast<void>(Launch(WritePast, {{1, 1, 1}, 32, 64}, nullptr, 64)),
               "wrote past the shared memory");
}

}  // namespace
}  // namespace palimpsest::cuda
