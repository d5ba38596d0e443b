#include "common/tls/identity.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include "absl/time/clock.h"
#include "tests/unit/common/tls/pki.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;

class IdentityTest : public ::testing::Test {
 protected:
  void SetUp() override { pki_.WriteTo(scratch_.path()); }
  TlsSection Section() { return {.folder = scratch_.path()}; }
  std::string Own() { return scratch_.path() + "/trainer.pem"; }
  // What ReadIdentity says against the files of the trainer.
  std::string Refusal(absl::Time now = absl::Now()) {
    return std::string(ReadIdentity(Section(), Role::kTrainer, now).status().message());
  }

  Pki pki_;
  weights::ScratchFolder scratch_;
};

TEST_F(IdentityTest, EveryRoleHasItsFile) {
  for (const Role role : kAllRoles) {
    const absl::StatusOr<Identity> read = ReadIdentity(Section(), role, absl::Now());
    ASSERT_TRUE(read.ok()) << read.status();
    EXPECT_EQ(RoleOf(*read->certificate).value(), role);
    EXPECT_TRUE(read->chain.empty());
  }
}

TEST_F(IdentityTest, WithoutAFolderNothingIsRead) {
  EXPECT_TRUE(Validate(TlsSection{}, Role::kTrainer, absl::Now()).ok());
  EXPECT_FALSE(Validate(TlsSection{.folder = "/nowhere"}, Role::kTrainer, absl::Now()).ok());
  for (const absl::Duration bad : {absl::ZeroDuration(), absl::Milliseconds(1500)}) {
    EXPECT_THAT(
        std::string(Validate(TlsSection{.reload = bad}, Role::kTrainer, absl::Now()).message()),
        StartsWith("tls.reload="));
  }
}

TEST_F(IdentityTest, WhatIsMissingOrNoPemIsNamed) {
  const std::string place = "tls.folder=" + scratch_.path() + ": " + scratch_.path();
  std::remove((scratch_.path() + "/ca.pem").c_str());
  EXPECT_THAT(Refusal(), AllOf(StartsWith(place + "/ca.pem"), HasSubstr("is missing")));
  WritePem(scratch_.path() + "/ca.pem", "hello");
  EXPECT_THAT(Refusal(), AllOf(StartsWith(place + "/ca.pem"), HasSubstr("no certificate")));
  WritePem(Own(), "");
  EXPECT_THAT(Refusal(), AllOf(StartsWith(place + "/trainer.pem"), HasSubstr("no certificate")));
  WritePem(Own(), pki_.ca());
  EXPECT_THAT(Refusal(), HasSubstr("no private key"));
  std::remove(Own().c_str());
  EXPECT_THAT(Refusal(), AllOf(StartsWith(place + "/trainer.pem"), HasSubstr("is missing")));
}

TEST_F(IdentityTest, AKeyThatEverybodyReadsIsRefused) {
  ASSERT_EQ(chmod(Own().c_str(), 0604), 0);
  EXPECT_THAT(Refusal(), HasSubstr("open to every user"));
}

TEST_F(IdentityTest, TheKeyMustBeTheCertificates) {
  const std::string one = pki_.IssueTo("trainer"), other = pki_.IssueTo("trainer");
  const size_t end_of_key = other.find("-----BEGIN CERTIFICATE");
  WritePem(Own(), other.substr(0, end_of_key) + one.substr(one.find("-----BEGIN CERTIFICATE")));
  EXPECT_THAT(Refusal(), HasSubstr("not the one of its certificate"));
}

TEST_F(IdentityTest, ItsTimeIsHeldAgainstTheClock) {
  EXPECT_THAT(Refusal(absl::Now() + absl::Hours(2)), HasSubstr("expired"));
  EXPECT_THAT(Refusal(absl::Now() - absl::Hours(2)), HasSubstr("not yet valid"));
}

TEST_F(IdentityTest, AnotherCaIsNotBelieved) {
  const Pki other("another CA");
  WritePem(Own(), other.IssueTo("trainer"));
  EXPECT_THAT(Refusal(), HasSubstr("unable to get local issuer certificate"));
  // Both, as while the CA is replaced.
  WritePem(scratch_.path() + "/ca.pem", pki_.ca() + other.ca());
  EXPECT_EQ(Refusal(), "");
}

TEST_F(IdentityTest, ItMustBeOfTheRole) {
  WritePem(Own(), pki_.IssueTo("env"));
  EXPECT_THAT(Refusal(), HasSubstr("is the certificate of the role env"));
  WritePem(Own(), pki_.Issue(Pki::Wish{}));
  EXPECT_THAT(Refusal(), HasSubstr("names no role"));
}

}  // namespace
}  // namespace palimpsest
