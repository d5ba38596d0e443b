#pragma once

#include <iosfwd>
#include <string>

#include "common/base/status.h"

namespace palimpsest::tools {

struct WatchOptions {
  std::string target;  // folder of a run, or HOST:PORT of its page
  std::string tls;     // folder with ca.pem and operator.pem; empty: clear text
  std::string web;     // HOST:PORT: serve the page of the folder there, in place of watching
  bool once = false;   // look once
};
absl::Status CheckWatch(const WatchOptions& options);

// Shows a run on stderr, drawn again each second on a terminal, until it is over or a signal comes;
// elsewhere, or with `once`, one look. What was seen last is one line of JSON on stdout. A run that
// nobody makes now is read from its ledger, by a palimpsest-page that lives as long as this call.
absl::Status RunWatch(const WatchOptions& options, std::ostream& out, std::ostream& err);

}  // namespace palimpsest::tools
