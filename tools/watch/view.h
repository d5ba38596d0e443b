#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

namespace palimpsest::tools {

// What the page of a run answered, and the ends of its logs. Fields that lack or are of another
// kind are shown as "-": the answers come from another process.
struct WatchFacts {
  nlohmann::json progress, curves, fleet, rollouts;
  std::vector<std::string> warnings;
  std::string page;  // where a browser finds the same
};

// The facts as lines of at most `columns` characters, without any control character.
std::vector<std::string> WatchLines(const WatchFacts& facts, int columns);

// `values` as `columns` blocks or fewer, from the least to the most; neighbours are averaged.
std::string Sparkline(const std::vector<double>& values, int columns);

}  // namespace palimpsest::tools
