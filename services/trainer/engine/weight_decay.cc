#include "services/trainer/engine/weight_decay.h"

namespace palimpsest::trainer {

bool Decays(DecayGroup group, std::string_view name, int64_t dimensions) {
  if (group == DecayGroup::kAll) return true;
  if (dimensions < 2) return false;
  return group == DecayGroup::kMatrices ||
         !(name.ends_with("embed_tokens.weight") || name.ends_with("lm_head.weight"));
}

}  // namespace palimpsest::trainer
