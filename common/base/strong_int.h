#pragma once

#include <compare>
#include <cstdint>
#include <functional>

namespace palimpsest {

// An integer that does not turn into another kind of integer by accident. Costs nothing at run
// time.
template <class Tag, class Rep>
class StrongInt {
 public:
  using rep = Rep;
  constexpr StrongInt() = default;
  constexpr explicit StrongInt(Rep value) : value_(value) {}
  constexpr Rep value() const { return value_; }
  constexpr auto operator<=>(const StrongInt&) const = default;

 private:
  Rep value_ = 0;
};

// The number of the weights. Rises strictly over all attempts of a run; carried with every token.
using PolicyVersion = StrongInt<struct PolicyVersionTag, int64_t>;

}  // namespace palimpsest

template <class Tag, class Rep>
struct std::hash<palimpsest::StrongInt<Tag, Rep>> {
  size_t operator()(palimpsest::StrongInt<Tag, Rep> v) const { return std::hash<Rep>{}(v.value()); }
};
