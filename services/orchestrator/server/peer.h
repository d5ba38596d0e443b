#pragma once

#include <grpcpp/grpcpp.h>

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/time.h"
#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/rpc/tls.h"
#include "services/orchestrator/core/progress.h"

namespace palimpsest::orchestrator {

// How to reach the daemons of a run.
struct PeerConfig {
  std::string run_folder;
  std::string run;  // its name, which a peer that says one must say too
  Tls tls;          // ours; a peer must show the role that it is called by
  ChannelConfig channel;
  absl::Duration call = absl::Seconds(30);           // deadline of quick calls
  absl::Duration env_call = absl::Minutes(3);        // of those that environments answer
  absl::Duration switch_call = absl::Minutes(5);     // of publishing and flipping weights
  absl::Duration train_call = absl::Minutes(10);     // of one batch
  absl::Duration generate_call = absl::Minutes(10);  // of one group
};

// What a peer says of itself, out of its GetServerInfo.
struct Introduction {
  int revision = 0;
  std::string role;
  std::string run;
};

// One daemon, found by its address file and looked for again after a call that it did not answer:
// a daemon that was restarted writes another address. Any thread.
template <class Stub>
class Peer {
 public:
  using NewStub = std::function<std::unique_ptr<Stub>(std::shared_ptr<grpc::Channel>)>;
  // The revision handshake: the first call on each connection.
  using Introduce = std::function<absl::StatusOr<Introduction>(Stub&, grpc::ClientContext&)>;

  Peer(std::string role, int rank, const PeerConfig& config, NewStub new_stub, Introduce introduce)
      : role_(std::move(role)),
        rank_(rank),
        config_(config),
        new_stub_(std::move(new_stub)),
        introduce_(std::move(introduce)) {}

  // One attempt: finds the daemon if need be, then call(stub, context). UNAVAILABLE, or no answer
  // within the deadline, makes the next attempt look for the daemon again, by a new connection.
  absl::Status Call(absl::Duration deadline,
                    const std::function<grpc::Status(Stub&, grpc::ClientContext&)>& call) {
    absl::StatusOr<std::shared_ptr<Stub>> stub = Connected();
    absl::Status status = stub.status();
    if (status.ok()) {
      const std::unique_ptr<grpc::ClientContext> context = MakeContext(config_.channel);
      SetTimeout(*context, deadline);
      Enter(context.get());
      status = FromGrpc(call(**stub, *context));
      // A server that goes away cancels what it has not ended; here only GiveUpCalls does.
      if (const bool given_up = Leave(context.get()); absl::IsCancelled(status) && !given_up) {
        status = absl::UnavailableError(role_ + " has ended the call: it is going away");
      }
      // Of a connection whose other end has vanished nothing but the deadline tells at first.
      if (absl::IsUnavailable(status) || absl::IsDeadlineExceeded(status)) Forget(*stub);
    }
    absl::MutexLock lock(&mu_);
    last_error_ = status.ok() ? "" : status.ToString();
    return status;
  }

  // Ends the calls that wait for it now, for whom they are CANCELLED then: it does not answer.
  void GiveUpCalls() {
    absl::MutexLock lock(&mu_);
    for (auto& [call, given_up] : calls_) {
      given_up = true;
      call->TryCancel();
    }
  }

  PeerFacts Facts() const {
    absl::MutexLock lock(&mu_);
    return {role_, rank_, address_.host_port, stub_ != nullptr, last_error_};
  }

 private:
  absl::StatusOr<std::shared_ptr<Stub>> Connected();
  void Enter(grpc::ClientContext* call) {
    absl::MutexLock lock(&mu_);
    calls_[call] = false;
  }
  // Was it given up?
  bool Leave(grpc::ClientContext* call) {
    absl::MutexLock lock(&mu_);
    const auto found = calls_.find(call);
    const bool given_up = found->second;
    calls_.erase(found);
    return given_up;
  }
  void Forget(const std::shared_ptr<Stub>& stub) {
    absl::MutexLock lock(&mu_);
    if (stub_ == stub) stub_ = nullptr;
  }

  std::string role_;
  int rank_;
  PeerConfig config_;
  NewStub new_stub_;
  Introduce introduce_;
  mutable absl::Mutex mu_;
  Address address_ ABSL_GUARDED_BY(mu_);
  std::shared_ptr<Stub> stub_ ABSL_GUARDED_BY(mu_);
  std::string last_error_ ABSL_GUARDED_BY(mu_);
  std::map<grpc::ClientContext*, bool> calls_ ABSL_GUARDED_BY(mu_);  // that run; is it given up?
};

// INVALID: another revision, role or run. `introduction` as the peer gave it.
absl::Status CheckIntroduction(const Introduction& introduction, const std::string& role,
                               const std::string& run);

template <class Stub>
absl::StatusOr<std::shared_ptr<Stub>> Peer<Stub>::Connected() {
  {
    absl::MutexLock lock(&mu_);
    if (stub_ != nullptr) return stub_;
  }
  absl::StatusOr<Address> address = ReadAddress(config_.run_folder, role_, rank_);
  if (absl::IsNotFound(address.status())) {
    return absl::UnavailableError(role_ + " has not written its address yet");
  }
  RETURN_IF_ERROR(address.status());
  ASSIGN_OR_RETURN(const Role role, RoleOfName(role_));
  ASSIGN_OR_RETURN(std::shared_ptr<grpc::Channel> channel,
                   MakeChannel(address->host_port, config_.channel, config_.tls.Peer(role)));
  std::shared_ptr<Stub> stub = new_stub_(std::move(channel));
  const std::unique_ptr<grpc::ClientContext> context = MakeContext(config_.channel);
  SetTimeout(*context, config_.call);
  ASSIGN_OR_RETURN(const Introduction introduction, introduce_(*stub, *context));
  RETURN_IF_ERROR(CheckIntroduction(introduction, role_, config_.run));
  absl::MutexLock lock(&mu_);
  address_ = *address;
  stub_ = stub;
  return stub;
}

// The handshake with any of our services: request and response are named after it.
template <class Request, class Response, class Stub>
absl::StatusOr<Introduction> IntroduceTo(Stub& stub, grpc::ClientContext& context, int revision) {
  Request request;
  request.set_revision(revision);
  Response response;
  RETURN_IF_ERROR(FromGrpc(stub.GetServerInfo(&context, request, &response)));
  return Introduction{response.server().revision(), response.server().role(),
                      response.server().run()};
}

}  // namespace palimpsest::orchestrator
