#include "common/base/kept_memory.h"

#include <malloc.h>

namespace palimpsest {

void KeepFreedMemory() {
  // Either one alone freezes the other at its small default (mallopt(3)).
  mallopt(M_MMAP_THRESHOLD, 32 << 20);  // the most that glibc takes
  mallopt(M_TRIM_THRESHOLD, 256 << 20);
}

}  // namespace palimpsest
