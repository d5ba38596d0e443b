#pragma once

#include <grpcpp/support/client_interceptor.h>
#include <grpcpp/support/server_interceptor.h>

#include <memory>

#include "common/base/clock.h"

// Traces over gRPC: the id travels in the metadata "traceparent"; a peer answers in the trailing
// metadata "palimpsest-served" when it began and how long it took, in microseconds.
namespace palimpsest {

// Calls of a thread that stands in a TraceScope with a sink.
std::unique_ptr<grpc::experimental::ClientInterceptorFactoryInterface> MakeClientTrace();

// Calls that carry an id: one log line "call served" each, and the answer above. What a peer sends
// in its place is passed over. `clock` must outlive the server.
std::unique_ptr<grpc::experimental::ServerInterceptorFactoryInterface> MakeServerTrace(
    Clock& clock);

}  // namespace palimpsest
