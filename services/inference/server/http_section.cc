#include "services/inference/server/http_section.h"

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest::inference {

void Bind(Binder& b, HttpSection& c) {
  b.Field("listen", c.listen, "host:port; port 0 takes a free one, empty: there is no such door");
  b.Field("model", c.model, "the name that clients ask for; empty: that of the run");
  b.Field("connections", c.connections, "at once, a thread each; beyond it 429");
  b.Bytes("max_body", c.max_body, "of a request; beyond it 413");
  b.Field("deadline", c.deadline, "of one request; then 504");
}

absl::Status Validate(std::string_view daemon, const HttpSection& c, const ListenSection& serve,
                      const TlsSection& tls) {
  if (!c.listen.empty()) {
    RETURN_IF_ERROR(ReadPlace(daemon, "http.listen", c.listen, serve, tls).status());
  }
  if (c.connections < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s.http.connections=%d is below 1", daemon, c.connections));
  }
  if (c.max_body < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("%s.http.max_body=%d is below 1", daemon, c.max_body));
  }
  if (c.deadline >= absl::Seconds(1) && c.deadline <= absl::Hours(24 * 7)) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrFormat("%s.http.deadline=%s is outside of [1s, 168h]",
                                                    daemon, absl::FormatDuration(c.deadline)));
}

}  // namespace palimpsest::inference
