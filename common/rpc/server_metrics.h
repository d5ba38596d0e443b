#pragma once

#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "common/base/clock.h"
#include "common/telemetry/metrics.h"

namespace palimpsest {

// Counts every call of a server: rpc_server_requests_total{method,code}, rpc_server_in_flight,
// rpc_server_seconds{method} (from the first byte of the request to the end of the call).
// `metrics` and `clock` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerMetrics(
    Metrics& metrics, Clock& clock);

}  // namespace palimpsest
