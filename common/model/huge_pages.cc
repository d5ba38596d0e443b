#include "common/model/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace palimpsest::model {

// The tensor library reads it when it takes its first memory.
void UseHugePages() { setenv("THP_MEM_ALLOC_ENABLE", "1", /*replace=*/0); }

void UseSmallPages(void* begin, int64_t bytes) {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto at = reinterpret_cast<uintptr_t>(begin);
  const uintptr_t first = (at + page - 1) / page * page, last = (at + bytes) / page * page;
  // Where it fails pages are as they were.
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_NOHUGEPAGE);
}

}  // namespace palimpsest::model
