#include "common/rpc/call_trace.h"

#include <map>
#include <optional>
#include <string>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/base/random.h"
#include "common/telemetry/log.h"
#include "common/telemetry/trace.h"

namespace palimpsest {
namespace {

using grpc::experimental::InterceptionHookPoints;
using Received = std::multimap<grpc::string_ref, grpc::string_ref>;

constexpr char kServed[] = "palimpsest-served";

std::optional<std::string> Find(const Received* metadata, const char* key) {
  if (metadata == nullptr) return std::nullopt;
  const auto found = metadata->find(key);
  if (found == metadata->end()) return std::nullopt;
  return std::string(found->second.data(), found->second.size());
}

std::optional<CallSpan::Served> ParseServed(const std::string& text) {
  const std::vector<std::string> words = absl::StrSplit(text, ' ');
  int64_t begin = 0, length = 0;
  if (words.size() != 2 || !absl::SimpleAtoi(words[0], &begin) ||
      !absl::SimpleAtoi(words[1], &length) || begin < 0 || length < 0) {
    return std::nullopt;
  }
  return CallSpan::Served{absl::FromUnixMicros(begin), absl::Microseconds(length)};
}

class ClientTrace final : public grpc::experimental::Interceptor {
 public:
  ClientTrace(const TraceScope::Work& work, const char* method)
      : work_(work), method_(method), begin_(SystemClock().Now()) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      // One span of a call is enough: its number says nothing but that it is none of the others.
      const uint64_t span =
          MixSeed({work_.id.low, static_cast<uint64_t>(absl::ToUnixNanos(begin_))}) | 1;
      methods->GetSendInitialMetadata()->insert({kTraceparent, Traceparent(work_.id, span)});
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_STATUS)) {
      CallSpan span{.trace = work_.id, .part = work_.part, .method = method_, .begin = begin_};
      span.length = SystemClock().Now() - begin_;
      span.ok = methods->GetRecvStatus()->ok();
      const auto served = Find(methods->GetRecvTrailingMetadata(), kServed);
      if (served.has_value()) span.served = ParseServed(*served);
      work_.sink->Take(std::move(span));
    }
    methods->Proceed();
  }

 private:
  const TraceScope::Work work_;
  const std::string method_;
  const absl::Time begin_;
};

class ClientFactory final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  grpc::experimental::Interceptor* CreateClientInterceptor(
      grpc::experimental::ClientRpcInfo* info) override {
    const TraceScope::Work work = TraceScope::Now();
    return work.sink != nullptr ? new ClientTrace(work, info->method()) : nullptr;
  }
};

class ServerTrace final : public grpc::experimental::Interceptor {
 public:
  ServerTrace(Clock& clock, const char* method)
      : clock_(clock), method_(method), begin_(clock.Now()) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_INITIAL_METADATA)) {
      const auto header = Find(methods->GetRecvInitialMetadata(), kTraceparent);
      if (header.has_value()) trace_ = ParseTraceparent(*header);
    }
    if (trace_.has_value() &&
        methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      const absl::Duration length = clock_.Now() - begin_;
      methods->GetSendTrailingMetadata()->insert(
          {kServed, absl::StrFormat("%d %d", absl::ToUnixMicros(begin_),
                                    absl::ToInt64Microseconds(length))});
      const auto code = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
      Log(Severity::kInfo, "call served",
          {{"trace", trace_->Hex()},
           {"method", method_},
           {"begin_us", absl::ToUnixMicros(begin_)},
           {"seconds", absl::ToDoubleSeconds(length)},
           {"code", absl::StatusCodeToString(code)}});
    }
    methods->Proceed();
  }

 private:
  Clock& clock_;
  const std::string method_;
  const absl::Time begin_;
  std::optional<TraceId> trace_;
};

class ServerFactory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  explicit ServerFactory(Clock& clock) : clock_(clock) {}
  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    return new ServerTrace(clock_, info->method());
  }

 private:
  Clock& clock_;
};

}  // namespace

std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTrace() {
  return std::make_unique<ClientFactory>();
}

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTrace(
    Clock& clock) {
  return std::make_unique<ServerFactory>(clock);
}

}  // namespace palimpsest
