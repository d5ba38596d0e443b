#include "common/collective/link.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <csignal>
#include <filesystem>
#include <thread>

#include "tests/unit/common/tls/pki.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

// Two ends on loopback, each in a thread, under certificates that each may choose.
class LinkTest : public ::testing::Test {
 protected:
  using Ends = std::pair<absl::StatusOr<Link>, absl::StatusOr<Link>>;

  LinkTest() : folder_(::testing::TempDir() + "/link-" + std::to_string(getpid())) {
    std::signal(SIGPIPE, SIG_IGN);
    std::filesystem::create_directories(folder_ + "/other");
    ours_.WriteTo(folder_);
    theirs_.WriteTo(folder_ + "/other");
  }
  ~LinkTest() override { std::filesystem::remove_all(folder_); }

  static Deadline Soon() { return {absl::Now() + absl::Seconds(20)}; }

  // The one who accepts is a trainer and expects one; the other is what `folder` and `role` say.
  Ends Open(const std::string& folder, Role role, Role expected = Role::kTrainer) const {
    const UniqueFd listening = *ListenOn("127.0.0.1");
    absl::StatusOr<Link> connected = absl::UnknownError("not yet");
    std::thread other([&] {
      connected = OpenAs({.folder = folder}, role, Link::Side::kConnects, expected,
                         *ConnectTo("127.0.0.1", PortOf(listening), Soon(), SystemClock()));
    });
    absl::StatusOr<Link> accepted =
        OpenAs({.folder = folder_}, Role::kTrainer, Link::Side::kAccepts, Role::kTrainer,
               *AcceptFrom(listening, Soon(), SystemClock()));
    other.join();
    return {std::move(accepted), std::move(connected)};
  }

  static absl::StatusOr<Link> OpenAs(const TlsSection& tls, Role own, Link::Side side, Role peer,
                                     UniqueFd socket) {
    ASSIGN_OR_RETURN(const Identity identity, ReadIdentity(tls, own, absl::Now()));
    ASSIGN_OR_RETURN(const LinkContext context, LinkContext::Make(identity));
    return Link::Open(std::move(socket), side, context, peer, Soon(), SystemClock());
  }

  const std::string folder_;
  const Pki ours_, theirs_{"another CA"};
};

TEST_F(LinkTest, WhatOneSaysTheOtherHearsHoweverLongItIs) {
  auto [a, b] = Open(folder_, Role::kTrainer);
  ASSERT_TRUE(a.ok() && b.ok()) << a.status() << b.status();
  const std::string said(30'000'000, 'x');
  std::string heard(said.size(), ' ');
  std::thread speaker([&] { EXPECT_TRUE(a->Write(said, Soon()).ok()); });
  EXPECT_TRUE(b->Read(std::span(heard), Soon()).ok());
  speaker.join();
  EXPECT_EQ(heard, said);
}

TEST_F(LinkTest, AnotherRoleIsTurnedAwayByWhoeverExpectsATrainer) {
  const auto [a, b] = Open(folder_, Role::kEnv);
  EXPECT_EQ(a.status(), absl::PermissionDeniedError("it shows the role env, not trainer"));
  const auto [c, d] = Open(folder_, Role::kTrainer, Role::kInference);
  EXPECT_EQ(d.status(), absl::PermissionDeniedError("it shows the role trainer, not inference"));
}

TEST_F(LinkTest, ATrainerOfAnotherCaIsNotBelievedByEitherSide) {
  const auto [a, b] = Open(folder_ + "/other", Role::kTrainer);
  EXPECT_FALSE(a.ok());
  EXPECT_TRUE(absl::IsPermissionDenied(b.status())) << b.status();
  EXPECT_THAT(std::string(b.status().message()), HasSubstr("not to be believed"));
}

TEST_F(LinkTest, WhoSpeaksInClearTextIsNoPeer) {
  const UniqueFd listening = *ListenOn("127.0.0.1");
  const UniqueFd stranger = *ConnectTo("127.0.0.1", PortOf(listening), Soon(), SystemClock());
  const std::string nonsense(64, 'x');
  ASSERT_EQ(write(stranger.get(), nonsense.data(), nonsense.size()), 64);
  const auto link = OpenAs({.folder = folder_}, Role::kTrainer, Link::Side::kAccepts,
                           Role::kTrainer, *AcceptFrom(listening, Soon(), SystemClock()));
  EXPECT_TRUE(absl::IsUnavailable(link.status())) << link.status();
}

TEST_F(LinkTest, WaitingEndsByItsDeadlineByAWordAndWithTheOther) {
  auto [a, b] = Open(folder_, Role::kTrainer);
  ASSERT_TRUE(a.ok() && b.ok());
  char byte = 0;
  const absl::Time start = absl::Now();
  EXPECT_TRUE(absl::IsDeadlineExceeded(a->Read({&byte, 1}, {start + absl::Milliseconds(200)})));
  EXPECT_GE(absl::Now() - start, absl::Milliseconds(200));
  EXPECT_TRUE(
      absl::IsCancelled(a->Read({&byte, 1}, {absl::InfiniteFuture(), [] { return true; }})));
  b = absl::UnknownError("gone");
  EXPECT_TRUE(absl::IsUnavailable(a->Read({&byte, 1}, Soon())));
}

}  // namespace
}  // namespace palimpsest
