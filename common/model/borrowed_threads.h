#pragma once

namespace palimpsest::model {

// Parallel regions that the calling thread begins from now on have so many threads, but no more
// than OMP_THREAD_LIMIT allows: the libraries below share work out over as many as they were
// promised, and what the missing ones should have computed stays undone. Returns how many.
int UseThreads(int threads);

// For a thread that computes now and then (loads weights, scores) beside the one that computes all
// the time: the team that the tensor library's parallel regions leave behind on the calling thread
// ends with this object. libgomp counts the threads of all teams. While they are more than the
// cores, none waits a moment for the next region before it sleeps, and a decode step wakes its
// threads two hundred times: 35 ms instead of 23 (Qwen3-0.6B's shape, two cores).
class BorrowedThreads {
 public:
  BorrowedThreads() = default;
  ~BorrowedThreads();
  BorrowedThreads(const BorrowedThreads&) = delete;
  BorrowedThreads& operator=(const BorrowedThreads&) = delete;
};

}  // namespace palimpsest::model
