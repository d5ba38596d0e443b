#pragma once

#include <cstdint>

namespace palimpsest::model {

// From now on tensors of 2 MB and more lie in huge pages where Linux gives them to those who ask
// (/sys/kernel/mm/transparent_hugepage/enabled is `madvise` or `always`): a page is faulted in and
// translated once where it was 512 times. First in main, before there are threads and tensors. The
// user's own THP_MEM_ALLOC_ENABLE stays; 0 switches it off.
void UseHugePages();

// Small pages for memory that is taken into use bit by bit by a thread that others wait for: a huge
// page is zeroed as a whole when it is first touched, and tensors that grow side by side touch
// theirs in the same step. Before any of it is touched.
void UseSmallPages(void* begin, int64_t bytes);

// Has Linux (5.14 and later) give its pages to memory that is about to be written, at once. What
// stands there stays. Else a page that is read before it is written is one of zeros, which the
// first write replaces, with an interrupt to every processor that knew it.
void TakePages(void* begin, int64_t bytes);

}  // namespace palimpsest::model
