#pragma once

#include <span>
#include <string_view>

namespace palimpsest::orchestrator {

// A file of static/, as it was when this was built.
struct Asset {
  std::string_view path;  // "/page.css"; index.html is "/"
  std::string_view type;  // of the content, as HTTP names it
  std::string_view content;
};

std::span<const Asset> Assets();

}  // namespace palimpsest::orchestrator
