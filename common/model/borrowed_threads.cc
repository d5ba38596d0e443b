#include "common/model/borrowed_threads.h"

#include <omp.h>

namespace palimpsest::model {

BorrowedThreads::~BorrowedThreads() { omp_pause_resource_all(omp_pause_soft); }

}  // namespace palimpsest::model
