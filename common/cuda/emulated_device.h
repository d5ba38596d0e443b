#pragma once

#include <cstdint>
#include <functional>
#include <vector>

// What stands in for a GPU's stream and memory under the emulation, and what tests may do to them.
namespace palimpsest::cuda {

// Kernels, products and copies: done at once, or only noted while this thread captures a graph.
void Submit(std::function<void()> work);
// Notes what `capture` submits.
std::vector<std::function<void()>> Captured(const std::function<void()>& capture);
// Throws while this thread captures: what the host waits for cannot stand in a graph.
void RefuseInCapture(const char* what);

// The n-th allocation from now on, on the device or for copies to it, throws NoMemory; 0: none
// does. Tells how many there were since the call before.
int64_t FailTake(int64_t nth);

// Memory that was given back becomes NaN and is kept for a while. Ends the process if any of it was
// written since: so does a write that is found when it is let go at last.
void CheckGivenBack();

}  // namespace palimpsest::cuda
