#pragma once

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "common/config/binder.h"
#include "common/config/run_sections.h"
#include "common/rpc/listen.h"

namespace palimpsest::inference {

// `router:` of the YAML.
struct RouterConfig {
  bool enabled = false;               // this process is the router, not a replica
  ListenSection serve;                // its keys stand beside the others
  std::vector<std::string> replicas;  // host:port; empty: those of the run, as they come and go
  absl::Duration poll = absl::Seconds(1);
  absl::Duration patience = absl::Seconds(5);  // a poll without an answer
  double load_factor = 1.25;                   // of the mean load
  absl::Duration call_deadline = absl::Hours(1);
};
void Bind(Binder& b, RouterConfig& c);
absl::Status Validate(const RouterConfig& c, const TlsSection& tls = {});

// What palimpsest-inference reads of the YAML when it is the router.
struct RouterDaemonConfig {
  RunSection run;
  RouterConfig router;
  TlsSection tls;
};

}  // namespace palimpsest::inference
