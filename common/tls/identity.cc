#include "common/tls/identity.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <string>

#include "absl/strings/str_format.h"
#include "common/base/status.h"

namespace palimpsest {
namespace {

absl::Status Refuse(const TlsSection& c, const std::string& file, std::string_view why) {
  ERR_clear_error();
  return absl::InvalidArgumentError(absl::StrFormat("tls.folder=%s: %s %s", c.folder, file, why));
}

std::shared_ptr<BIO> Open(const std::string& file) {
  return {BIO_new_file(file.c_str(), "r"), BIO_free};
}

// The certificates of a file in their order; other parts of it are passed over.
std::vector<std::shared_ptr<X509>> ReadCertificates(const std::string& file) {
  std::vector<std::shared_ptr<X509>> read;
  const std::shared_ptr<BIO> bio = Open(file);
  while (bio != nullptr) {
    X509* const next = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr);
    if (next == nullptr) break;
    read.emplace_back(next, X509_free);
  }
  ERR_clear_error();  // the end of a file is an error to OpenSSL
  return read;
}

// Nobody is asked for a passphrase: a daemon has no terminal.
int NoPassphrase(char*, int, int, void*) { return 0; }

std::shared_ptr<EVP_PKEY> ReadKey(const std::string& file) {
  const std::shared_ptr<BIO> bio = Open(file);
  if (bio == nullptr) return nullptr;
  EVP_PKEY* const key = PEM_read_bio_PrivateKey(bio.get(), nullptr, NoPassphrase, nullptr);
  if (key == nullptr) return nullptr;
  return {key, EVP_PKEY_free};
}

// Empty when `leaf` can be traced to a CA at `now`, else why not.
std::string WhyNotBelieved(const Identity& identity, absl::Time now) {
  const std::shared_ptr<STACK_OF(X509)> between(sk_X509_new_null(),
                                                [](STACK_OF(X509) * s) { sk_X509_free(s); });
  for (const auto& certificate : identity.chain) sk_X509_push(between.get(), certificate.get());
  const std::shared_ptr<X509_STORE_CTX> check(X509_STORE_CTX_new(), X509_STORE_CTX_free);
  X509_STORE_CTX_init(check.get(), identity.believed.get(), identity.certificate.get(),
                      between.get());
  X509_STORE_CTX_set_time(check.get(), 0, absl::ToTimeT(now));
  if (X509_verify_cert(check.get()) == 1) return "";
  return X509_verify_cert_error_string(X509_STORE_CTX_get_error(check.get()));
}

absl::Status CheckFile(const TlsSection& c, const std::string& file, bool secret) {
  struct stat found {};
  if (stat(file.c_str(), &found) != 0) return Refuse(c, file, "is missing or cannot be read");
  if (secret && (found.st_mode & S_IRWXO) != 0) {
    return Refuse(c, file, "holds a key and is open to every user: chmod 600");
  }
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<Role> RoleOf(const x509_st& certificate) {
  std::vector<std::string> uris;
  const std::shared_ptr<GENERAL_NAMES> names(
      static_cast<GENERAL_NAMES*>(
          X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)),
      GENERAL_NAMES_free);
  for (int i = 0; i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_URI) continue;
    const ASN1_IA5STRING* const uri = name->d.uniformResourceIdentifier;
    uris.emplace_back(reinterpret_cast<const char*>(ASN1_STRING_get0_data(uri)),
                      static_cast<size_t>(ASN1_STRING_length(uri)));
  }
  return RoleOfUris(uris);
}

absl::StatusOr<Identity> ReadIdentity(const TlsSection& c, Role role, absl::Time now) {
  const std::string own = OwnFile(c, role), ca = CaFile(c);
  RETURN_IF_ERROR(CheckFile(c, own, /*secret=*/true));
  RETURN_IF_ERROR(CheckFile(c, ca, /*secret=*/false));
  Identity read;
  std::vector<std::shared_ptr<X509>> certificates = ReadCertificates(own);
  if (certificates.empty()) return Refuse(c, own, "holds no certificate in PEM");
  read.certificate = certificates.front();
  read.chain.assign(certificates.begin() + 1, certificates.end());
  read.key = ReadKey(own);
  if (read.key == nullptr)
    return Refuse(c, own, "holds no private key in PEM without a passphrase");
  if (X509_check_private_key(read.certificate.get(), read.key.get()) != 1) {
    return Refuse(c, own, "holds a key that is not the one of its certificate");
  }
  read.believed = {X509_STORE_new(), X509_STORE_free};
  const auto cas = ReadCertificates(ca);
  if (cas.empty()) return Refuse(c, ca, "holds no certificate in PEM");
  for (const auto& certificate : cas) X509_STORE_add_cert(read.believed.get(), certificate.get());
  const std::string why = WhyNotBelieved(read, now);
  if (!why.empty()) {
    return Refuse(c, own, absl::StrFormat("is not to be believed under ca.pem: %s", why));
  }
  const absl::StatusOr<Role> named = RoleOf(*read.certificate);
  if (!named.ok()) return Refuse(c, own, std::string(named.status().message()));
  if (*named != role) {
    return Refuse(c, own, absl::StrFormat("is the certificate of the role %s", RoleName(*named)));
  }
  return read;
}

}  // namespace palimpsest
