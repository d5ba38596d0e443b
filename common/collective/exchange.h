#pragma once

#include <cstring>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "common/collective/collective.h"

namespace palimpsest {

// What each rank brings, by rank: plain values, between processes of one build. Summed in this
// order they give the same bits everywhere.
template <class T>
requires std::is_trivially_copyable_v<T> absl::StatusOr<std::vector<std::vector<T>>> OfAll(
    Collective& ranks, std::span<const T> mine) {
  ASSIGN_OR_RETURN(
      const std::vector<std::string> all,
      ranks.AllGatherBytes({reinterpret_cast<const char*>(mine.data()), mine.size_bytes()}));
  std::vector<std::vector<T>> values;
  for (const std::string& bytes : all) {
    auto& part = values.emplace_back(bytes.size() / sizeof(T));
    if (part.empty()) continue;
    std::memcpy(static_cast<void*>(part.data()), bytes.data(), part.size() * sizeof(T));
  }
  return values;
}

// One value of each.
template <class T>
absl::StatusOr<std::vector<T>> OneOfAll(Collective& ranks, const T& mine) {
  ASSIGN_OR_RETURN(const std::vector<std::vector<T>> all, OfAll<T>(ranks, {&mine, 1}));
  std::vector<T> values;
  for (const std::vector<T>& part : all) values.push_back(part.at(0));
  return values;
}

}  // namespace palimpsest
