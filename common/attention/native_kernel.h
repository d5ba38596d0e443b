#pragma once

#include "common/attention/paged_kernel.h"

// Attention of a bf16 row over a paged cache by the processor's own instructions for bf16 (AVX-512
// BF16): 16 slots of a page are a register of scores. Only paged_kernel.cc calls this, where it has
// found AVX-512 F, BW, DQ and BF16.
namespace palimpsest::attention {

// Whether the head width d has a kernel here.
bool HasNativeWidth(int d);

// AttendPart for slots [begin, end) of the block table; begin is a multiple of kSlotsPerPage.
void AttendSlotsNatively(const PagedCache<BFloat16>& cache, const int32_t* table, int begin,
                         int end, int h, const BFloat16* q, int group, float scale, float* scratch);

}  // namespace palimpsest::attention
