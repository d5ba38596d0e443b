#include "common/model/borrowed_threads.h"

#ifdef _OPENMP
#include <omp.h>
#endif

namespace palimpsest::model {

BorrowedThreads::~BorrowedThreads() {
#ifdef _OPENMP  // the fuzzers are compiled without: no region of ours makes a team there
  omp_pause_resource_all(omp_pause_soft);
#endif
}

}  // namespace palimpsest::model
