#pragma once

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"

struct evp_pkey_st;
struct x509_st;

namespace palimpsest {

// A certificate authority and what it signs, made in memory. Everything is PEM.
class Pki {
 public:
  explicit Pki(const std::string& name = "test CA");

  struct Wish {
    std::vector<std::string> uris;  // more names: localhost and 127.0.0.1
    absl::Duration from = -absl::Hours(1);
    absl::Duration until = absl::Hours(1);  // both from now on
  };
  // A key and its certificate.
  std::string Issue(const Wish& wish) const;
  std::string IssueTo(const std::string& role) const;

  const std::string& ca() const { return ca_pem_; }

  // Puts ca.pem and <role>.pem of every role into `folder`, by rename.
  void WriteTo(const std::string& folder) const;

 private:
  std::shared_ptr<evp_pkey_st> key_;
  std::shared_ptr<x509_st> certificate_;
  std::string ca_pem_;
};

// By rename, so that a reader sees the old file or the new one. Mode 0600.
void WritePem(const std::string& file, const std::string& text);

}  // namespace palimpsest
