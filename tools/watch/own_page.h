#pragma once

#include <string>

#include "common/base/status.h"
#include "tools/launch/child_process.h"

namespace palimpsest::tools {

// A palimpsest-page of our own, for a run that nobody makes. It ends with this object.
class OwnPage {
 public:
  // When it serves; else its own words.
  static absl::StatusOr<OwnPage> Start(const std::string& folder);
  ~OwnPage();
  OwnPage(OwnPage&& other) noexcept;

  const std::string& host_port() const { return host_port_; }

 private:
  OwnPage(ChildProcess child, std::string said)
      : child_(std::move(child)), said_(std::move(said)) {}
  absl::Status Await();

  ChildProcess child_;
  std::string said_;  // a file with what it says
  std::string host_port_;
};

}  // namespace palimpsest::tools
