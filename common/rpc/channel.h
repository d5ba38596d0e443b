#pragma once

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "common/rpc/config.h"

namespace grpc {
class Channel;
class ChannelCredentials;
class ClientContext;
}  // namespace grpc

namespace palimpsest {

// A channel to "host:port", with the credentials of Tls::Peer or in clear text. Connects when first
// used. Every call on it must have a
// deadline: one without is our own bug, is cancelled at once and told in the log. gRPC's own
// retries are off, see CallWithRetry.
absl::StatusOr<std::shared_ptr<grpc::Channel>> MakeChannel(
    const std::string& address, const ChannelConfig& config,
    std::shared_ptr<grpc::ChannelCredentials> credentials = nullptr);

// For who makes callback calls. gRPC 1.51 takes the queue of such calls down with the last channel
// that made one, under a thread that still waits in it, and aborts now and then. After this one
// channel, which connects to nobody, keeps the queue for the life of the process.
void KeepCallbackQueue();

// A context whose deadline is config.call_deadline from now. One per attempt of a call.
std::unique_ptr<grpc::ClientContext> MakeContext(const ChannelConfig& config);

// Another deadline for one call, from now on: shorter, or longer for a stream.
void SetTimeout(grpc::ClientContext& context, absl::Duration timeout);

}  // namespace palimpsest
