#include "common/cuda/graphs.h"

#include <gtest/gtest.h>

#include <optional>
#include <stdexcept>

#include "common/cuda/device.cuh"
#include "common/cuda/emulated_device.h"
#include "common/cuda/memory.h"

namespace palimpsest::cuda {
namespace {

void AddOne(int* to) {
  if (threadIdx.x == 0) *to += 1;
}

// Adds one to what stands in some memory.
class Adder {
 public:
  Adder() { Place(); }
  void Place() {
    memory_ = DeviceMemory(sizeof(int));
    *at() = 0;
  }
  int* at() const { return memory_.as<int>(); }
  void Run() {
    const void* place = at();
    graphs_.Run({1, 1}, {&place, 1}, nullptr, [&] {
      ++works_;
      Require(Launch(AddOne, {{1, 1, 1}, 32, 0}, nullptr, at()));
      if (std::exchange(fails_, false)) throw std::runtime_error("as asked");
    });
  }
  void FailOnce() { fails_ = true; }
  int works() const { return works_; }

 private:
  DeviceMemory memory_;
  Graphs graphs_;
  int works_ = 0;
  bool fails_ = false;
};

TEST(GraphsTest, RunsThenCapturesThenReplays) {
  Adder adder;
  for (int i = 1; i <= 4; ++i) {
    adder.Run();
    EXPECT_EQ(*adder.at(), i);
    EXPECT_EQ(adder.works(), std::min(i, 2));
  }
}

TEST(GraphsTest, ForgetsWhatKnowsOtherPlaces) {
  Adder adder;
  for (int i = 0; i < 3; ++i) adder.Run();
  adder.Place();
  adder.Run();
  EXPECT_EQ(*adder.at(), 1);
  EXPECT_EQ(adder.works(), 3);
  CheckGivenBack();
}

// Its kernels may not be loaded, which must not happen in a capture.
TEST(GraphsTest, WorkThatFailedRunsAgainBeforeItIsCaptured) {
  Adder adder;
  adder.FailOnce();
  EXPECT_THROW(adder.Run(), std::runtime_error);
  EXPECT_EQ(*adder.at(), 1);
  adder.FailOnce();
  EXPECT_THROW(adder.Run(), std::runtime_error);  // ran: not captured
  EXPECT_EQ(*adder.at(), 2);
  adder.Run();
  adder.FailOnce();
  EXPECT_THROW(adder.Run(), std::runtime_error);  // in a capture: nothing is done
  EXPECT_EQ(*adder.at(), 3);
  adder.Run();
  adder.Run();
  EXPECT_EQ(*adder.at(), 5);
  EXPECT_EQ(adder.works(), 5);
}

TEST(GraphsDeathTest, AReplayInMemoryThatWasGivenBackIsFound) {
  EXPECT_DEATH(
      {
        std::optional<DeviceMemory> memory(DeviceMemory(sizeof(int)));
        const Graph graph(nullptr, [&] {
          Require(Launch(AddOne, {{1, 1, 1}, 32, 0}, nullptr, memory->as<int>()));
        });
        memory.reset();
        graph.Replay(nullptr);
        CheckGivenBack();
      },
      "written after it was given back");
}

TEST(GraphsTest, ACaptureTakesNoMemoryAndDoesNotWait) {
  EXPECT_THROW(Graph(nullptr, [] { DeviceMemory(4); }), std::runtime_error);
  EXPECT_THROW(Graph(nullptr, [] { Wait(nullptr); }), std::runtime_error);
  Wait(nullptr);
}

TEST(GraphsTest, TheNthAllocationFailsWhenItIsAskedFor) {
  FailTake(2);
  const DeviceMemory first(4);
  EXPECT_THROW(DeviceMemory(4), NoMemory);
  const HostMemory third(4);
  EXPECT_EQ(FailTake(0), 3);
}

}  // namespace
}  // namespace palimpsest::cuda
