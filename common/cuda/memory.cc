#include "common/cuda/memory.h"

#include <stdexcept>

namespace palimpsest::cuda {

void Require(const Launched& launched) {
  if (!launched.ok()) throw std::runtime_error(launched.error);
}

}  // namespace palimpsest::cuda
