#pragma once

#include <cstdint>
#include <string_view>

namespace palimpsest::trainer {

// Which parameters weight decay pulls towards 0.
enum class DecayGroup : uint8_t {
  kMatrices,       // two dimensions or more: neither norms nor biases
  kInnerMatrices,  // of these, neither the embedding nor the head
  kAll,
};

// `name` as in the Hugging Face files.
bool Decays(DecayGroup group, std::string_view name, int64_t dimensions);

}  // namespace palimpsest::trainer
