#pragma once

#include <string>
#include <vector>

#include "common/base/random.h"

namespace palimpsest {

// One of `good` (not empty), broken in one to a few places: bits, bytes, runs cut out, doubled or
// moved, a piece of another good one, a number or a mark that parsers stumble over.
std::string Mutate(RandomStream& stream, const std::vector<std::string>& good);

}  // namespace palimpsest
