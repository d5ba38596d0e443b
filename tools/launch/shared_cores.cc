#include "tools/launch/shared_cores.h"

#include <cstdlib>

namespace palimpsest::tools {

void ShareCores() {
  if (std::getenv("OMP_WAIT_POLICY") != nullptr) return;
  setenv("OMP_WAIT_POLICY", "PASSIVE", 0);
  setenv("GOMP_SPINCOUNT", "1000", 0);
}

}  // namespace palimpsest::tools
