#include "common/tls/section.h"

#include "absl/strings/str_format.h"
#include "common/tls/identity.h"

namespace palimpsest {

void Bind(Binder& b, TlsSection& c) {
  b.Field("folder", c.folder, "with ca.pem and <role>.pem; empty: nothing is encrypted");
  b.Field("reload", c.reload, "how soon new connections use files that were replaced");
}

absl::Status Validate(const TlsSection& c, Role role, absl::Time now) {
  if (c.reload < absl::Seconds(1) || c.reload > absl::Hours(24) ||
      c.reload != absl::Floor(c.reload, absl::Seconds(1))) {
    return absl::InvalidArgumentError(
        absl::StrFormat("tls.reload=%s is not a whole number of seconds in [1s, 24h]",
                        absl::FormatDuration(c.reload)));
  }
  if (!c.on()) return absl::OkStatus();
  return ReadIdentity(c, role, now).status();
}

std::string CaFile(const TlsSection& c) { return c.folder + "/ca.pem"; }

std::string OwnFile(const TlsSection& c, Role role) {
  return absl::StrFormat("%s/%s.pem", c.folder, RoleName(role));
}

}  // namespace palimpsest
