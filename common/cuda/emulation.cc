#include "common/cuda/emulation.h"

#include <setjmp.h>
#include <ucontext.h>

#include <cstdio>
#include <cstdlib>
#include <memory>
#include <numeric>
#include <random>
#include <vector>

namespace palimpsest::cuda {
namespace {

constexpr int kWarp = 32;
constexpr size_t kStackBytes = 128 * 1024;
constexpr size_t kGuardBytes = 256;
constexpr char kPoison = static_cast<char>(0xff);  // of bytes: a NaN of every width

struct Barrier {
  int arrived = 0;
  uint64_t generation = 0;
};

struct Warp {
  Barrier barrier;
  uint64_t words[2][kWarp];  // of this exchange and the one before, which may still be read
};

struct Fiber {
  std::unique_ptr<char[]> stack;
  ucontext_t first;
  jmp_buf here;
  bool begun = false, done = false;
  const Barrier* waits = nullptr;
  uint64_t generation = 0;  // of the barrier that it waits for
  int exchanges = 0;
};

struct Block {
  std::vector<Fiber> fibers;
  std::vector<Warp> warps;
  std::vector<char> shared;
  Barrier barrier;
  Fiber* running = nullptr;
  jmp_buf scheduler;
  const std::function<void()>* thread = nullptr;
  uint64_t seed = 0;
  std::mt19937_64 draws;
};
Block block;

[[noreturn]] void Die(const char* what, size_t thread) {
  std::fprintf(stderr, "emulation: block (%u, %u, %u), thread %zu: %s\n", place.block.x,
               place.block.y, place.block.z, thread, what);
  std::abort();
}

void Begin() {
  (*block.thread)();
  block.running->done = true;
  _longjmp(block.scheduler, 1);
}

void Resume(size_t i) {
  Fiber& fiber = block.fibers[i];
  block.running = &fiber;
  place.thread.x = static_cast<unsigned>(i);
  if (_setjmp(block.scheduler) != 0) return;
  if (fiber.begun) _longjmp(fiber.here, 1);
  fiber.begun = true;
  setcontext(&fiber.first);
}

void WaitAt(Barrier& barrier, size_t of) {
  if (++barrier.arrived == static_cast<int>(of)) {
    barrier.arrived = 0;
    ++barrier.generation;
    return;
  }
  Fiber& fiber = *block.running;
  fiber.waits = &barrier;
  fiber.generation = barrier.generation;
  if (_setjmp(fiber.here) == 0) _longjmp(block.scheduler, 1);
}

void Prepare(size_t threads) {
  block.fibers.resize(threads);
  block.warps.assign(threads / kWarp, {});
  block.barrier = {};
  std::fill(block.shared.begin(), block.shared.end(), kPoison);
  for (Fiber& fiber : block.fibers) {
    if (!fiber.stack) fiber.stack = std::make_unique_for_overwrite<char[]>(kStackBytes);
    getcontext(&fiber.first);
    fiber.first.uc_stack = {.ss_sp = fiber.stack.get(), .ss_flags = 0, .ss_size = kStackBytes};
    fiber.first.uc_link = nullptr;
    makecontext(&fiber.first, Begin, 0);
    fiber.begun = fiber.done = false;
    fiber.waits = nullptr;
    fiber.exchanges = 0;
  }
}

// Each thread up to its next barrier, again and again.
void RunBlock() {
  std::vector<size_t> order(block.fibers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  for (size_t left = order.size(); left > 0;) {
    if (block.seed != 0) std::shuffle(order.begin(), order.end(), block.draws);
    bool moved = false;
    for (const size_t i : order) {
      Fiber& fiber = block.fibers[i];
      if (fiber.done || (fiber.waits && fiber.waits->generation == fiber.generation)) continue;
      fiber.waits = nullptr;
      moved = true;
      Resume(i);
      if (fiber.done) --left;
    }
    if (moved) continue;
    for (const size_t i : order) {
      if (!block.fibers[i].done) Die("waits at a barrier that others do not reach", i);
    }
  }
}

}  // namespace

void Emulate(dim3 grid, int threads, size_t shared_bytes, const std::function<void()>& thread) {
  block.thread = &thread;
  block.shared.assign(shared_bytes + kGuardBytes, kPoison);
  place.grid = grid;
  place.block_size = {.x = static_cast<unsigned>(threads)};
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        place.block = {x, y, z};
        Prepare(threads);
        RunBlock();
        for (size_t i = 0; i < kGuardBytes; ++i) {
          if (block.shared[shared_bytes + i] != kPoison) Die("wrote past the shared memory", 0);
        }
      }
    }
  }
}

void ShuffleThreads(uint64_t seed) {
  block.seed = seed;
  block.draws.seed(seed);
}

void WaitForBlock() { WaitAt(block.barrier, block.fibers.size()); }

void WaitForWarp() { WaitAt(block.warps[threadIdx.x / kWarp].barrier, kWarp); }

char* SharedBytes() { return block.shared.data(); }

uint64_t FromLane(uint64_t mine, int lane) {
  Warp& warp = block.warps[threadIdx.x / kWarp];
  uint64_t* words = warp.words[block.running->exchanges++ % 2];
  words[threadIdx.x % kWarp] = mine;
  WaitForWarp();
  return words[lane];
}

void CheckAligned(const void* address, size_t bytes) {
  if (reinterpret_cast<uintptr_t>(address) % bytes != 0) Die("a misaligned access", threadIdx.x);
}

}  // namespace palimpsest::cuda
