#pragma once

namespace palimpsest {

// Memory that is freed stays with the process, up to a bound: blocks of up to 32 MiB come from the
// heap, which gives pages back beyond 256 MiB only. For processes that make the same tensors in
// every step: getting their pages from the kernel again, and having them zeroed, was a fifth of
// what events cost. Once per process is enough; any thread.
void KeepFreedMemory();

}  // namespace palimpsest
