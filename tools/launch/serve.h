#pragma once

#include <string>
#include <vector>

#include "common/base/status.h"

namespace palimpsest::tools {

struct ServeOptions {
  std::string model;                  // Hugging Face folder
  std::string folder = "runs/serve";  // of the daemon: store, addresses, logs
  int port = 0;                       // on 127.0.0.1; 0 takes a free one
  int replicas = 1;                   // more: the port is that of a router before them
  std::string tls;                    // folder of certificates; empty: clear text
  std::vector<std::string> sets;      // inference.KEY=VALUE or, before several, router.KEY=VALUE
};
absl::Status CheckServe(const ServeOptions& options);

// Publishes the model into the store of `folder` and keeps one inference daemon on it, or several
// and a router, until a signal comes. Each time that it serves, also after a restart, one line of
// JSON on stdout says where: {"server", "policy_version", "model", "folder"}. Exit code 0 after a
// signal; otherwise that of the failure, and a last line as of `launch`.
int RunServe(const ServeOptions& options);

}  // namespace palimpsest::tools
