#include "common/model/huge_pages.h"

#include <sys/mman.h>
#include <unistd.h>

#include <cstdlib>

namespace palimpsest::model {

// The tensor library reads it when it takes its first memory.
void UseHugePages() { setenv("THP_MEM_ALLOC_ENABLE", "1", /*replace=*/0); }

namespace {

uintptr_t PageBytes() { return static_cast<uintptr_t>(sysconf(_SC_PAGESIZE)); }

// Pages [first, last). Where the system refuses its advice pages are as they were.
void Advise(uintptr_t first, uintptr_t last, int advice) {
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, advice);
}

}  // namespace

void UseSmallPages(void* begin, int64_t bytes) {
  const uintptr_t page = PageBytes(), at = reinterpret_cast<uintptr_t>(begin);
  Advise((at + page - 1) / page * page, (at + bytes) / page * page, MADV_NOHUGEPAGE);
}

void TakePages(void* begin, int64_t bytes) {
  const uintptr_t page = PageBytes(), at = reinterpret_cast<uintptr_t>(begin);
  Advise(at / page * page, (at + bytes + page - 1) / page * page, MADV_POPULATE_WRITE);
}

}  // namespace palimpsest::model
