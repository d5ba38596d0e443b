#include "tests/unit/common/tls/pki.h"

#include <gtest/gtest.h>
#include <openssl/evp.h>
#include <openssl/pem.h>
#include <openssl/rand.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <cstdio>
#include <fstream>

#include "common/tls/role.h"

namespace palimpsest {
namespace {

std::string TakePem(BIO* bio) {
  char* bytes = nullptr;
  const long size = BIO_get_mem_data(bio, &bytes);
  std::string text(bytes, static_cast<size_t>(size));
  BIO_free(bio);
  return text;
}

std::string PemOf(X509* certificate) {
  BIO* const bio = BIO_new(BIO_s_mem());
  PEM_write_bio_X509(bio, certificate);
  return TakePem(bio);
}

std::string PemOf(EVP_PKEY* key) {
  BIO* const bio = BIO_new(BIO_s_mem());
  PEM_write_bio_PrivateKey(bio, key, nullptr, nullptr, 0, nullptr, nullptr);
  return TakePem(bio);
}

std::shared_ptr<EVP_PKEY> MakeKey() { return {EVP_EC_gen("P-256"), EVP_PKEY_free}; }

void AddExtension(X509* certificate, int kind, const std::string& value) {
  X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, kind, value.c_str());
  ASSERT_NE(extension, nullptr) << value;
  X509_add_ext(certificate, extension, -1);
  X509_EXTENSION_free(extension);
}

// Not signed yet.
std::shared_ptr<X509> MakeCertificate(const std::string& name, EVP_PKEY* key,
                                      const Pki::Wish& wish) {
  const std::shared_ptr<X509> made(X509_new(), X509_free);
  X509_set_version(made.get(), 2);
  uint32_t serial = 0;
  RAND_bytes(reinterpret_cast<unsigned char*>(&serial), sizeof(serial));
  ASN1_INTEGER_set_uint64(X509_get_serialNumber(made.get()), serial);
  X509_gmtime_adj(X509_getm_notBefore(made.get()), absl::ToInt64Seconds(wish.from));
  X509_gmtime_adj(X509_getm_notAfter(made.get()), absl::ToInt64Seconds(wish.until));
  X509_NAME_add_entry_by_txt(X509_get_subject_name(made.get()), "CN", MBSTRING_ASC,
                             reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
  X509_set_pubkey(made.get(), key);
  return made;
}

}  // namespace

Pki::Pki(const std::string& name)
    : key_(MakeKey()),
      certificate_(
          MakeCertificate(name, key_.get(), {.from = -absl::Hours(99), .until = absl::Hours(99)})) {
  X509_set_issuer_name(certificate_.get(), X509_get_subject_name(certificate_.get()));
  AddExtension(certificate_.get(), NID_basic_constraints, "critical,CA:TRUE");
  X509_sign(certificate_.get(), key_.get(), EVP_sha256());
  ca_pem_ = PemOf(certificate_.get());
}

std::string Pki::Issue(const Wish& wish) const {
  const auto key = MakeKey();
  const auto made = MakeCertificate("test", key.get(), wish);
  X509_set_issuer_name(made.get(), X509_get_subject_name(certificate_.get()));
  std::string names = "DNS:localhost,IP:127.0.0.1";
  for (const std::string& uri : wish.uris) names += ",URI:" + uri;
  AddExtension(made.get(), NID_subject_alt_name, names);
  X509_sign(made.get(), key_.get(), EVP_sha256());
  return PemOf(key.get()) + PemOf(made.get());
}

std::string Pki::IssueTo(const std::string& role) const {
  return Issue({.uris = {"palimpsest://role/" + role}});
}

void Pki::WriteTo(const std::string& folder) const {
  for (const Role role : kAllRoles) {
    const std::string name(RoleName(role));
    WritePem(folder + "/" + name + ".pem", IssueTo(name));
  }
  WritePem(folder + "/ca.pem", ca_pem_);
}

void WritePem(const std::string& file, const std::string& text) {
  const std::string fresh = file + ".fresh";
  std::ofstream(fresh) << text;
  ASSERT_EQ(chmod(fresh.c_str(), 0600), 0);
  ASSERT_EQ(std::rename(fresh.c_str(), file.c_str()), 0);
}

}  // namespace palimpsest
