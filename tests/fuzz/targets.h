#pragma once

#include <string>
#include <vector>

namespace palimpsest {

// Something that reads what may be hostile.
struct FuzzTarget {
  const char* name;
  // What it accepts, to be broken.
  std::vector<std::string> (*good)();
  // Reads, and holds what was accepted against what the reader promises. True: it was accepted.
  bool (*read)(const std::string& bytes);
};
const std::vector<FuzzTarget>& FuzzTargets();

}  // namespace palimpsest
