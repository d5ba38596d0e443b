#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace palimpsest {

// Finds stop strings in text that arrives in chunks. The text is cut before the stop string that is
// complete first (of several complete at once, the one that begins first): the answer does not
// depend on the chunks. Ids are never cut; that is the caller's affair. One stream, one thread.
class StopStrings {
 public:
  // INVALID_ARGUMENT: a stop string is empty or not UTF-8. None at all is fine.
  static absl::StatusOr<StopStrings> Create(std::vector<std::string> stops);

  // Takes whole characters, returns what is surely before any stop string. "" once stopped.
  std::string Push(std::string_view chunk);
  // The end of the stream: what was held back since a stop string might have begun with it.
  std::string Flush();

  bool stopped() const { return stopped_; }

 private:
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}
  // Bytes at the end of held_ that begin some stop string without finishing it.
  size_t PossibleBegin() const;

  std::vector<std::string> stops_;
  std::string held_;
  bool stopped_ = false;
};

}  // namespace palimpsest
