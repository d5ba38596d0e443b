#include "services/inference/router/config.h"

#include <set>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::inference {
namespace {

absl::Status CheckTime(const char* key, absl::Duration value, absl::Duration least) {
  if (value >= least && value <= absl::Hours(24)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("router.%s=%s is outside of [%s, 24h]", key,
                                                    absl::FormatDuration(value),
                                                    absl::FormatDuration(least)));
}

}  // namespace

void Bind(Binder& b, RouterConfig& c) {
  b.Field("enabled", c.enabled, "this process is the router of the replicas, not one of them");
  BindListen(b, c.serve);
  b.Field("replicas", c.replicas,
          "host:port of each; empty: those of the run's addresses, as they come and go");
  b.Field("poll", c.poll, "between two looks at a replica");
  b.Field("patience", c.patience, "a replica that does not answer a look for so long is away");
  b.Field("load_factor", c.load_factor,
          "a replica without a free row, with this many times the mean load, is passed over");
  b.Field("call_deadline", c.call_deadline, "of calls that come without one");
}

absl::Status Validate(const RouterConfig& c, const TlsSection& tls) {
  RETURN_IF_ERROR(ReadListen("router", c.serve, tls).status());
  std::set<std::string> seen;
  for (const std::string& replica : c.replicas) {
    ASSIGN_OR_RETURN(const HostPort place, ParseHostPort("router.replicas", replica));
    if (place.port == 0) {
      return absl::InvalidArgumentError(
          absl::StrFormat("router.replicas=%s: a port to connect to is not 0", replica));
    }
    if (!seen.insert(replica).second) {
      return absl::InvalidArgumentError(
          absl::StrFormat("router.replicas=%s stands there twice", replica));
    }
  }
  RETURN_IF_ERROR(CheckTime("poll", c.poll, absl::Milliseconds(10)));
  RETURN_IF_ERROR(CheckTime("patience", c.patience, absl::Milliseconds(10)));
  RETURN_IF_ERROR(CheckTime("call_deadline", c.call_deadline, absl::Seconds(1)));
  if (c.load_factor >= 1 && c.load_factor <= 100) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrFormat("router.load_factor=%g is outside of [1, 100]", c.load_factor));
}

}  // namespace palimpsest::inference
