#include "common/tokenizer/stop_strings.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_format.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest {

absl::StatusOr<StopStrings> StopStrings::Create(std::vector<std::string> stops) {
  for (size_t i = 0; i < stops.size(); ++i) {
    if (stops[i].empty() || !IsValidUtf8(stops[i])) {
      return absl::InvalidArgumentError(
          absl::StrFormat("stop[%d] is %s", i, stops[i].empty() ? "empty" : "not valid UTF-8"));
    }
  }
  return StopStrings(std::move(stops));
}

std::string StopStrings::Push(std::string_view chunk) {
  if (stopped_) return "";
  for (const char c : chunk) {
    held_ += c;
    size_t longest = 0;  // of those that end here, the longest begins first
    for (const std::string& stop : stops_) {
      if (stop.size() > longest && held_.ends_with(stop)) longest = stop.size();
    }
    if (longest > 0) {
      stopped_ = true;
      held_.resize(held_.size() - longest);
      return std::exchange(held_, "");
    }
  }
  const size_t safe = held_.size() - PossibleBegin();
  std::string text = held_.substr(0, safe);
  held_.erase(0, safe);
  return text;
}

std::string StopStrings::Flush() { return std::exchange(held_, ""); }

size_t StopStrings::PossibleBegin() const {
  size_t most = 0;
  for (const std::string& stop : stops_) {
    const size_t limit = std::min(stop.size() - 1, held_.size());
    for (size_t length = limit; length > most; --length) {
      if (held_.ends_with(std::string_view(stop).substr(0, length))) most = length;
    }
  }
  return most;
}

}  // namespace palimpsest
