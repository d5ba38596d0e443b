#include "common/rpc/config.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "absl/strings/str_format.h"
#include "common/config/flags.h"
#include "common/rpc/listen.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

template <class T>
void ExpectReadsBack(const T& config) {
  T again;
  const absl::Status status = Codec<T>::Read(*ParseYaml(PrintConfig(config), "printed"), "", again);
  EXPECT_TRUE(status.ok()) << status;
  EXPECT_EQ(again, config);
}

TEST(RpcConfigTest, PrintedConfigsReadBack) {
  ExpectReadsBack(
      RpcServerConfig{.host = "::1", .port = 17, .advertise = "n", .max_message = 5000});
  ExpectReadsBack(ChannelConfig{.call_deadline = absl::Minutes(7)});
}

TEST(RpcConfigTest, DefaultsAreValid) {
  EXPECT_TRUE(Validate(RpcServerConfig()).ok());
  EXPECT_TRUE(Validate(ChannelConfig()).ok());
}

TEST(RpcConfigTest, ErrorsNameFieldAndValue) {
  RpcServerConfig server;
  server.port = 70000;
  EXPECT_THAT(Validate(server).message(), HasSubstr("port=70000"));
  server = {};
  server.max_message = int64_t{3} << 30;
  EXPECT_THAT(Validate(server).message(), HasSubstr("max_message=3221225472"));
  server = {};
  server.max_metadata = 100;
  EXPECT_THAT(Validate(server).message(), HasSubstr("max_metadata=100"));
  server = {};
  server.max_streams = 0;
  EXPECT_THAT(Validate(server).message(), HasSubstr("max_streams=0"));
  server = {};
  server.drain = -absl::Seconds(1);
  EXPECT_THAT(Validate(server).message(), HasSubstr("drain=-1s"));
  ChannelConfig channel;
  channel.call_deadline = absl::ZeroDuration();
  EXPECT_THAT(Validate(channel).message(), HasSubstr("call_deadline=0"));
}

struct Daemon {
  ListenSection serve;
  bool operator==(const Daemon&) const = default;
};
void Bind(Binder& b, Daemon& c) { BindListen(b, c.serve); }

TEST(ListenSectionTest, ItsKeysStandInTheDaemonsOwnSection) {
  Daemon daemon;
  daemon.serve.metrics = "[::1]:9";
  daemon.serve.rpc.drain = absl::Seconds(3);
  ExpectReadsBack(daemon);
  const auto read = ReadListen("env", daemon.serve, {});
  ASSERT_TRUE(read.ok()) << read.status();
  EXPECT_EQ(read->metrics.port, 9);
  EXPECT_EQ(read->rpc.drain, absl::Seconds(3));
}

TEST(ListenSectionTest, RefusalsNameSectionAndKey) {
  const auto refused = [](const ListenSection& c) {
    return std::string(ReadListen("env", c, {}).status().message());
  };
  EXPECT_THAT(refused({.listen = "x"}), HasSubstr("env.listen=\"x\""));
  EXPECT_THAT(refused({.metrics = "x"}), HasSubstr("env.metrics=\"x\""));
  EXPECT_THAT(refused({.rpc = {.max_message = 1}}), HasSubstr("env.max_message=1"));
}

TEST(ListenSectionTest, GrpcAndMetricsGoBeyondLoopbackOnlyWhenInsecureSaysSo) {
  for (const char* place : {"0.0.0.0:0", "[::]:0", "10.0.0.1:80", "node1:80"}) {
    ListenSection both[] = {{.listen = place}, {.metrics = place}};
    EXPECT_THAT(ReadListen("env", both[0], {}).status().message(),
                HasSubstr(absl::StrFormat("env.listen=%s can be reached", place)));
    EXPECT_THAT(ReadListen("env", both[1], {}).status().message(),
                HasSubstr(absl::StrFormat("env.metrics=%s can be reached", place)));
    for (ListenSection& section : both) {
      section.rpc.insecure = true;
      EXPECT_TRUE(ReadListen("env", section, {}).ok()) << place;
    }
  }
}

TEST(ListenSectionTest, UnderTlsAnyHostWillDoAndInsecureIsAContradiction) {
  const TlsSection tls{.folder = "tls"};
  ListenSection section{.listen = "0.0.0.0:0", .metrics = "node1:80"};
  EXPECT_TRUE(ReadListen("env", section, tls).ok());
  section.rpc.insecure = true;
  EXPECT_THAT(std::string(ReadListen("env", section, tls).status().message()),
              StartsWith("env.insecure=true says that nothing is encrypted, tls.folder"));
}

TEST(RpcConfigTest, LoopbackIsTold) {
  for (const char* host : {"localhost", "127.0.0.1", "127.8.9.1", "::1"}) {
    EXPECT_TRUE(IsLoopback(host)) << host;
  }
  for (const char* host :
       {"0.0.0.0", "::", "10.0.0.1", "128.0.0.1", "node1", "127.0.0.1.example"}) {
    EXPECT_FALSE(IsLoopback(host)) << host;
  }
}

TEST(RpcConfigTest, Ipv6AddressesGetBrackets) {
  EXPECT_EQ(JoinHostPort("node1", 5), "node1:5");
  EXPECT_EQ(JoinHostPort("::1", 5), "[::1]:5");
}

TEST(ParseHostPortTest, TakesNamesNumbersAndBrackets) {
  EXPECT_EQ(ParseHostPort("f", "localhost:0")->host, "localhost");
  EXPECT_EQ(ParseHostPort("f", "[::1]:65535")->host, "::1");
  EXPECT_EQ(ParseHostPort("f", "[::1]:65535")->port, 65535);
}

TEST(ParseHostPortTest, NamesTheFieldThatIsBroken) {
  for (const char* text :
       {"", ":1", "host", "host:", "host:x", "host:65536", "host:-1", "::1:5", "[]:5", "host:1 "}) {
    EXPECT_THAT(ParseHostPort("env.listen", text).status().message(), HasSubstr("env.listen"))
        << text;
  }
}

}  // namespace
}  // namespace palimpsest
