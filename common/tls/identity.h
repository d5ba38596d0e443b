#pragma once

#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/tls/section.h"

struct evp_pkey_st;
struct x509_st;
struct x509_store_st;

namespace palimpsest {

// Whom a process shows itself to be, and whom it believes.
struct Identity {
  std::shared_ptr<x509_st> certificate;
  std::vector<std::shared_ptr<x509_st>> chain;  // between it and the CA, if there are such
  std::shared_ptr<evp_pkey_st> key;
  std::shared_ptr<x509_store_st> believed;  // the CAs of ca.pem
};

// Reads <folder>/<role>.pem (a private key, its certificate, then those between it and the CA) and
// <folder>/ca.pem (one CA or several). INVALID_ARGUMENT names tls.folder, the file and what is
// wrong with it: missing, readable by everybody, no PEM, the key is not the certificate's, expired
// at `now` or not valid yet, another role or none, not signed by a CA of ca.pem.
absl::StatusOr<Identity> ReadIdentity(const TlsSection& c, Role role, absl::Time now);

// The role that a certificate names, as RoleOfUris.
absl::StatusOr<Role> RoleOf(const x509_st& certificate);

}  // namespace palimpsest
