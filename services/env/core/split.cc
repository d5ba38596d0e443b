#include "services/env/core/split.h"

namespace palimpsest::env {

std::string_view SplitName(Split split) {
  switch (split) {
    case Split::kTrain:
      return "train";
    case Split::kSft:
      return "sft";
    case Split::kHeldout:
      return "heldout";
  }
  return "unknown";
}

Split SplitOf(std::string_view content) {
  const uint64_t shard = MixSeed({Meaning("split"), Meaning(content)}) % 8;
  if (shard == 0) return Split::kHeldout;
  return shard < 4 ? Split::kSft : Split::kTrain;
}

RandomStream EpisodeStream(std::string_view task, std::string_view purpose, Split split,
                           uint64_t seed, int64_t index) {
  return RandomStream(MixSeed({seed, Meaning(task), Meaning(purpose), static_cast<uint64_t>(split),
                               static_cast<uint64_t>(index)}));
}

}  // namespace palimpsest::env
