#pragma once

#include <cstdint>

namespace palimpsest::bench {

// Bytes per second at which `threads` threads read `bytes` of memory, each a part of its own: the
// best of `times`.
double ReadRate(int64_t bytes, int threads, int times);

}  // namespace palimpsest::bench
