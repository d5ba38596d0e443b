#pragma once

#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "common/config/binder.h"
#include "common/tls/role.h"

namespace palimpsest {

// `tls:` of the YAML, read by all daemons of a run and by the command.
struct TlsSection {
  std::string folder;  // ca.pem and <role>.pem (key and certificates); empty: clear text
  absl::Duration reload = absl::Seconds(30);  // whole seconds; replaced files are used by then
  bool operator==(const TlsSection&) const = default;

  bool on() const { return !folder.empty(); }
};
void Bind(Binder& b, TlsSection& c);

// Reads the files of `role` too, as ReadIdentity does: a daemon that cannot show who it is shall
// say so before it starts.
absl::Status Validate(const TlsSection& c, Role role, absl::Time now);

// Where the files stand.
std::string CaFile(const TlsSection& c);
std::string OwnFile(const TlsSection& c, Role role);

}  // namespace palimpsest
