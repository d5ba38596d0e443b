#include "common/model/huge_pages.h"

#include <cstdlib>

namespace palimpsest::model {

// The tensor library reads it when it takes its first memory.
void UseHugePages() { setenv("THP_MEM_ALLOC_ENABLE", "1", /*replace=*/0); }

}  // namespace palimpsest::model
