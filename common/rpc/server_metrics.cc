#include "common/rpc/server_metrics.h"

#include <set>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/status/status.h"
#include "absl/synchronization/mutex.h"

namespace palimpsest {
namespace {

using grpc::experimental::InterceptionHookPoints;

// The codes of a daemon's own faults. Their series begin as 0 with the first call of a method.
constexpr absl::StatusCode kFaults[] = {absl::StatusCode::kInternal, absl::StatusCode::kUnknown,
                                        absl::StatusCode::kDataLoss};

struct Families {
  MetricFamily<Counter> requests;
  Gauge in_flight;
  MetricFamily<Histogram> seconds;
};

class CallMetrics final : public grpc::experimental::Interceptor {
 public:
  CallMetrics(Families& families, Clock& clock, const char* method)
      : families_(families), clock_(clock), method_(method), start_(clock.Now()) {
    families_.in_flight.Add(1);
  }

  // The interceptor lives as long as its call, so the end of both is told here: a call that was
  // cancelled may never come to POST_RECV_CLOSE.
  ~CallMetrics() override {
    families_.in_flight.Add(-1);
    families_.seconds.With({method_}).Observe(absl::ToDoubleSeconds(clock_.Now() - start_));
    families_.requests.With({method_, absl::StatusCodeToString(code_)}).Add();
  }

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::POST_RECV_MESSAGE)) {
      asked_ = asked_ || methods->GetRecvMessage() != nullptr;
    }
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_STATUS)) {
      code_ = static_cast<absl::StatusCode>(methods->GetSendStatus().error_code());
      // What gRPC itself says of a call whose client went before its request was read.
      if (code_ == absl::StatusCode::kUnimplemented && !asked_)
        code_ = absl::StatusCode::kCancelled;
    }
    methods->Proceed();
  }

 private:
  Families& families_;
  Clock& clock_;
  std::string method_;
  absl::Time start_;
  bool asked_ = false;                                    // a request came
  absl::StatusCode code_ = absl::StatusCode::kCancelled;  // when no status is sent
};

class Factory final : public grpc::experimental::ServerInterceptorFactoryInterface {
 public:
  Factory(Metrics& metrics, Clock& clock)
      : families_{metrics.AddCounter({"rpc_server_requests_total",
                                      "Calls that ended, by their status.",
                                      {"method", "code"}}),
                  metrics.AddGauge({"rpc_server_in_flight", "Calls that are being served."})
                      .With({}),
                  metrics.AddHistogram(
                      {"rpc_server_seconds", "Time from request to end of a call.", {"method"}},
                      LatencyBuckets())},
        clock_(clock) {}

  grpc::experimental::Interceptor* CreateServerInterceptor(
      grpc::experimental::ServerRpcInfo* info) override {
    Begin(info->method());
    return new CallMetrics(families_, clock_, info->method());
  }

 private:
  void Begin(const std::string& method) {
    const absl::MutexLock lock(&mu_);
    if (!begun_.insert(method).second) return;
    for (const absl::StatusCode code : kFaults) {
      families_.requests.With({method, absl::StatusCodeToString(code)});
    }
  }

  Families families_;
  Clock& clock_;
  absl::Mutex mu_;
  std::set<std::string> begun_ ABSL_GUARDED_BY(mu_);  // methods
};

}  // namespace

std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerMetrics(
    Metrics& metrics, Clock& clock) {
  return std::make_unique<Factory>(metrics, clock);
}

}  // namespace palimpsest
