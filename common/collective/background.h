#pragma once

#include <memory>

#include "common/collective/collective.h"

namespace palimpsest {

// `ranks` with a thread of its own for what is begun: one operation after the other in the order in
// which they are begun, and every other call after those. `ranks` lets its Fail and health be
// called beside an operation.
std::unique_ptr<Collective> InBackground(std::unique_ptr<Collective> ranks);

}  // namespace palimpsest
