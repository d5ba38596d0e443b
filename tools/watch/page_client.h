#pragma once

#include <memory>
#include <nlohmann/json_fwd.hpp>
#include <string>

#include "absl/time/time.h"
#include "common/base/status.h"

namespace palimpsest::tools {

// Asks the page of a run for its JSON (services/orchestrator/web). One thread.
class PageClient {
 public:
  // `tls`: folder with ca.pem and operator.pem; empty: clear text. INVALID_ARGUMENT names --tls and
  // what is wrong there.
  static absl::Status CheckTls(const std::string& tls);
  static absl::StatusOr<std::unique_ptr<PageClient>> Open(const std::string& host_port,
                                                          const std::string& tls);
  ~PageClient();

  // An object. UNAVAILABLE when nobody answers within `patience`, the page's own code and words
  // when it refuses (INVALID_ARGUMENT where it tells none), DATA_LOSS for what is no JSON object or
  // longer than 16 MiB.
  absl::StatusOr<nlohmann::json> Get(const std::string& path,
                                     absl::Duration patience = absl::Seconds(20));

 private:
  struct Impl;
  explicit PageClient(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace palimpsest::tools
