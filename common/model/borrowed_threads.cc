#include "common/model/borrowed_threads.h"

#include <ATen/Parallel.h>

#include <algorithm>

#ifdef _OPENMP
#include <omp.h>
#endif

namespace palimpsest::model {

int UseThreads(int threads) {
#ifdef _OPENMP
  threads = std::min(threads, omp_get_thread_limit());
#endif
  at::set_num_threads(threads);
  return threads;
}

BorrowedThreads::~BorrowedThreads() {
#ifdef _OPENMP  // the fuzzers are compiled without: no region of ours makes a team there
  omp_pause_resource_all(omp_pause_soft);
#endif
}

}  // namespace palimpsest::model
