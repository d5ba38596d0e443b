#include "common/rpc/tls.h"

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <thread>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/tls/access.h"
#include "tests/unit/common/rpc/raw_service.h"
#include "tests/unit/common/tls/contracts.h"
#include "tests/unit/common/tls/pki.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr char kEcho[] = "/palimpsest.v1.InferenceService/Score";
constexpr char kHang[] = "/palimpsest.v1.InferenceService/Generate";
constexpr RawNames kNames = {.echo = kEcho,
                             .fail = "/palimpsest.v1.InferenceService/Tokenize",
                             .hang = kHang,
                             .slow = "/palimpsest.v1.InferenceService/Detokenize"};

class TlsTest : public ::testing::Test {
 protected:
  void SetUp() override { pki_.WriteTo(scratch_.path()); }

  TlsSection Section() const { return {.folder = scratch_.path(), .reload = absl::Seconds(1)}; }
  Tls As(Role role) const {
    absl::StatusOr<Tls> tls = Tls::Open(Section(), role, SystemClock());
    EXPECT_TRUE(tls.ok()) << tls.status();
    return *std::move(tls);
  }
  void Serve(grpc::Service& service, Role role = Role::kInference) {
    auto server = RpcServer::Start({.drain = absl::Milliseconds(200)}, {&service}, metrics_,
                                   SystemClock(), As(role));
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
  }
  std::shared_ptr<grpc::Channel> Channel(const Tls& tls, Role peer = Role::kInference) const {
    return MakeChannel(server_->address(), {}, tls.Peer(peer)).value();
  }
  // A client that is not ours: whatever key and certificate, whoever is believed.
  std::shared_ptr<grpc::Channel> Stranger(const std::string& pem, const std::string& ca) const {
    const auto credentials =
        grpc::SslCredentials({.pem_root_certs = ca, .pem_private_key = pem, .pem_cert_chain = pem});
    return MakeChannel(server_->address(), {}, credentials).value();
  }
  static absl::Status Echo(const std::shared_ptr<grpc::Channel>& channel) {
    return CallRaw(channel, kEcho, "x", absl::Seconds(5)).status();
  }

  // With a new connection each time.
  static testing::AssertionResult EventuallyOk(
      const std::function<std::shared_ptr<grpc::Channel>()>& connect) {
    absl::Status last;
    for (int i = 0; i < 100; ++i) {
      last = Echo(connect());
      if (last.ok()) return testing::AssertionSuccess();
      absl::SleepFor(absl::Milliseconds(100));
    }
    return testing::AssertionFailure() << last;
  }

  Pki pki_;
  weights::ScratchFolder scratch_;
  Metrics metrics_{"test", "0", SystemClock()};
  RawService echo_{kNames};
  std::unique_ptr<RpcServer> server_;
};

TEST_F(TlsTest, CallsGoThereAndBackAndGoBeyondLoopbackWithoutInsecure) {
  server_ = RpcServer::Start({.host = "0.0.0.0", .advertise = "127.0.0.1"}, {&echo_}, metrics_,
                             SystemClock(), As(Role::kInference))
                .value();
  EXPECT_EQ(CallRaw(Channel(As(Role::kClient)), kEcho, "bytes").value(), "bytes");
  const auto both =
      RpcServer::Start({.insecure = true}, {&echo_}, metrics_, SystemClock(), As(Role::kInference));
  EXPECT_THAT(std::string(both.status().message()), HasSubstr("insecure=true"));
}

// Over the wire: the check stands before any handler, so a server that knows none of the services
// answers UNIMPLEMENTED to whom it would let in.
TEST_F(TlsTest, EachRoleGetsPastTheCheckOfItsOwnRpcsOfAllServicesAndOfNoOther) {
  RawService other;
  Serve(other);
  const std::vector<std::string> methods = MethodsOfTheContracts();
  ASSERT_GE(methods.size(), 38u);
  for (const Role role : kAllRoles) {
    const auto channel = Channel(As(role));
    int denied = 0;
    for (const std::string& method : methods) {
      const absl::Status answer = CallRaw(channel, method.c_str(), "").status();
      const auto wanted = MayCall(role, method) ? absl::StatusCode::kUnimplemented
                                                : absl::StatusCode::kPermissionDenied;
      EXPECT_EQ(answer.code(), wanted) << RoleName(role) << " " << method << " " << answer;
      denied += wanted == absl::StatusCode::kPermissionDenied;
    }
    EXPECT_EQ(CallRaw(channel, "/test.Raw/Echo", "").status().code(),
              absl::StatusCode::kPermissionDenied)
        << "it is served, but has no row";
    EXPECT_TRUE(CheckHealth(channel, "").value());
    EXPECT_THAT(metrics_.Text(),
                HasSubstr(absl::StrFormat("palimpsest_rpc_server_denied_total{role=\"%s\"} %d\n",
                                          RoleName(role), denied + 1)));
  }
}

TEST_F(TlsTest, WhoShowsNoGoodCertificateIsNotLetIn) {
  Serve(echo_);
  const Pki other("another CA");
  const std::string good = pki_.IssueTo("client");
  EXPECT_TRUE(Echo(Stranger(good, pki_.ca())).ok()) << Echo(Stranger(good, pki_.ca()));
  const std::pair<const char*, std::shared_ptr<grpc::Channel>> refused[] = {
      {"clear text", MakeChannel(server_->address(), {}).value()},
      {"no certificate", Stranger("", pki_.ca())},
      {"of another CA", Stranger(other.IssueTo("client"), pki_.ca())},
      {"expired", Stranger(pki_.Issue({.uris = {"palimpsest://role/client"},
                                       .from = -absl::Hours(2),
                                       .until = -absl::Hours(1)}),
                           pki_.ca())},
      {"does not believe the server", Stranger(good, other.ca())},
  };
  for (const auto& [why, channel] : refused) {
    const absl::Status answer = Echo(channel);
    EXPECT_THAT(answer.code(),
                AnyOf(absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded))
        << why << ": " << answer;
  }
}

TEST_F(TlsTest, ACertificateWithoutAClearRoleMayCallNothing) {
  Serve(echo_);
  for (const std::vector<std::string>& uris : std::vector<std::vector<std::string>>{
           {},
           {"palimpsest://role/root"},
           {"palimpsest://role/env", "palimpsest://role/orchestrator"}}) {
    const auto channel = Stranger(pki_.Issue({.uris = uris}), pki_.ca());
    EXPECT_EQ(Echo(channel).code(), absl::StatusCode::kPermissionDenied);
    EXPECT_EQ(CheckHealth(channel, "").status().code(), absl::StatusCode::kPermissionDenied);
  }
  EXPECT_THAT(metrics_.Text(), HasSubstr("palimpsest_rpc_server_denied_total{role=\"none\"} 6\n"));
}

TEST_F(TlsTest, AClientSpeaksOnlyToTheRoleThatItMeant) {
  Serve(echo_, Role::kEnv);
  const Tls orchestrator = As(Role::kOrchestrator);
  EXPECT_TRUE(Echo(Channel(orchestrator, Role::kEnv)).ok());
  const absl::Status posing = Echo(Channel(orchestrator, Role::kTrainer));
  EXPECT_EQ(posing.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(posing.message()), HasSubstr("the server shows the role env"));
}

TEST_F(TlsTest, AClientUnderTlsDoesNotSpeakInClearText) {
  server_ = RpcServer::Start({}, {&echo_}, metrics_, SystemClock()).value();
  EXPECT_TRUE(Echo(MakeChannel(server_->address(), {}).value()).ok());
  EXPECT_THAT(Echo(Channel(As(Role::kClient))).code(),
              AnyOf(absl::StatusCode::kUnavailable, absl::StatusCode::kDeadlineExceeded));
}

TEST_F(TlsTest, ReplacedFilesAreUsedByNewConnectionsWhileOldStreamsGoOn) {
  Serve(echo_);
  const Tls client = As(Role::kClient);
  const auto old_channel = Channel(client);
  absl::Status ended;
  std::thread stream([&] { ended = CallRaw(old_channel, kHang, "", absl::Seconds(6)).status(); });
  ASSERT_TRUE(Echo(old_channel).ok());
  const std::string old_pem = pki_.IssueTo("client");

  const Pki fresh("the next CA");
  fresh.WriteTo(scratch_.path());
  const std::string fresh_pem = fresh.IssueTo("client");
  EXPECT_TRUE(EventuallyOk([&] { return Stranger(fresh_pem, fresh.ca()); }));
  EXPECT_TRUE(EventuallyOk([&] { return Channel(client); })) << "the same client takes them, too";
  EXPECT_EQ(Echo(Stranger(old_pem, fresh.ca())).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(Echo(old_channel).ok()) << "on the connection from before";
  stream.join();
  EXPECT_TRUE(absl::IsDeadlineExceeded(ended)) << ended;  // its own end, not the connection's
}

TEST(TlsConfigTest, BrokenFilesAreToldAtTheStart) {
  const absl::StatusOr<Tls> none = Tls::Open({.folder = "/nowhere"}, Role::kTrainer, SystemClock());
  EXPECT_TRUE(absl::IsInvalidArgument(none.status()));
  EXPECT_THAT(std::string(none.status().message()), HasSubstr("/nowhere/trainer.pem is missing"));
  EXPECT_FALSE(Tls::Open({}, Role::kTrainer, SystemClock())->on());
}

}  // namespace
}  // namespace palimpsest
