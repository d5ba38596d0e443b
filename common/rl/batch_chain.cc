#include "common/rl/batch_chain.h"

#include <xxhash.h>

#include <cstring>
#include <string>

namespace palimpsest::rl {

void BatchChain::Add(int64_t step, std::string_view batch_id) {
  std::string link(digest.bytes.begin(), digest.bytes.end());
  for (int shift = 0; shift < 64; shift += 8) {
    link.push_back(static_cast<char>(static_cast<uint64_t>(step) >> shift));
  }
  link.append(batch_id);
  XXH128_canonical_t canonical;
  XXH128_canonicalFromHash(&canonical, XXH3_128bits(link.data(), link.size()));
  static_assert(sizeof(canonical.digest) == sizeof(digest.bytes));
  std::memcpy(digest.bytes.data(), canonical.digest, sizeof(canonical.digest));
}

}  // namespace palimpsest::rl
