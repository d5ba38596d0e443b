#pragma once

#include <grpcpp/grpcpp.h>

#include <atomic>
#include <functional>
#include <string>
#include <vector>

#include "common/base/stopwatch.h"
#include "common/rpc/status.h"
#include "services/inference/router/asking.h"
#include "services/inference/router/fleet.h"

namespace palimpsest::inference {

// InferenceService in front of a fleet, without an engine. Streams are relayed by callbacks (see
// Relay); the other calls wait for their replica on gRPC's threads. Those about sessions stand in
// session_calls.cc, those that go to all replicas in control_calls.cc. It keeps nothing that a
// restart would miss, but for where the latest requests were sent.
class RouterService final
    : public v1::InferenceService::WithCallbackMethod_Generate<
          v1::InferenceService::WithCallbackMethod_StepSession<v1::InferenceService::Service>> {
 public:
  struct Options {
    v1::ServerInfo info;
    absl::Duration longest_call;    // of a call that has no deadline
    std::function<void()> drained;  // Drain was served: the daemon ends
  };
  // `fleet` and `telemetry` outlive it; the gRPC server that it is registered at ends first.
  RouterService(Options options, Fleet& fleet, RouterTelemetry& telemetry)
      : options_(std::move(options)), fleet_(fleet), telemetry_(telemetry) {}

  // From now on its state is DRAINING.
  void StartDraining() { draining_ = true; }

  grpc::ServerWriteReactor<v1::GenerateResponse>* Generate(
      grpc::CallbackServerContext* context, const v1::GenerateRequest* request) override;
  grpc::Status GetServerInfo(grpc::ServerContext*,
                             const v1::InferenceServiceGetServerInfoRequest* request,
                             v1::InferenceServiceGetServerInfoResponse* response) override;
  grpc::Status Score(grpc::ServerContext* context, const v1::ScoreRequest* request,
                     v1::ScoreResponse* response) override;
  grpc::Status Tokenize(grpc::ServerContext* context, const v1::TokenizeRequest* request,
                        v1::TokenizeResponse* response) override;
  grpc::Status Detokenize(grpc::ServerContext* context, const v1::DetokenizeRequest* request,
                          v1::DetokenizeResponse* response) override;

  grpc::Status Pause(grpc::ServerContext* context, const v1::InferenceServicePauseRequest* request,
                     v1::InferenceServicePauseResponse* response) override;
  grpc::Status Resume(grpc::ServerContext* context,
                      const v1::InferenceServiceResumeRequest* request,
                      v1::InferenceServiceResumeResponse*) override;
  grpc::Status Drain(grpc::ServerContext* context, const v1::InferenceServiceDrainRequest* request,
                     v1::InferenceServiceDrainResponse* response) override;
  grpc::Status AbortAll(grpc::ServerContext* context, const v1::AbortAllRequest* request,
                        v1::AbortAllResponse* response) override;
  grpc::Status UpdateWeights(grpc::ServerContext* context, const v1::UpdateWeightsRequest* request,
                             v1::UpdateWeightsResponse* response) override;

  grpc::Status CreateSession(grpc::ServerContext* context, const v1::CreateSessionRequest* request,
                             v1::CreateSessionResponse* response) override;
  grpc::ServerWriteReactor<v1::GenerateResponse>* StepSession(
      grpc::CallbackServerContext* context, const v1::StepSessionRequest* request) override;
  grpc::Status CompactSession(grpc::ServerContext* context,
                              const v1::CompactSessionRequest* request,
                              v1::CompactSessionResponse* response) override;
  grpc::Status ForkSession(grpc::ServerContext* context, const v1::ForkSessionRequest* request,
                           v1::ForkSessionResponse* response) override;
  grpc::Status ListSessions(grpc::ServerContext* context, const v1::ListSessionsRequest* request,
                            v1::ListSessionsResponse* response) override;
  grpc::Status DeleteSession(grpc::ServerContext* context, const v1::DeleteSessionRequest* request,
                             v1::DeleteSessionResponse* response) override;

 private:
  using Stub = v1::InferenceService::Stub;
  template <class Request, class Response>
  using Method = grpc::Status (Stub::*)(grpc::ClientContext*, const Request&, Response*);

  // The call that is made for `context`, which ends it when it is cancelled.
  std::unique_ptr<grpc::ClientContext> ContextFor(const grpc::ServerContext& context) const;

  // Counts how asking a replica ended, and doubts one that was lost.
  void Note(const grpc::ServerContext& context, const ReplicaPtr& replica,
            const grpc::Status& status);

  // One replica is asked, and that is noted.
  template <class Request, class Response>
  grpc::Status Ask(const grpc::ServerContext& context, const ReplicaPtr& replica,
                   Method<Request, Response> method, const Request& request, Response* response);
  // Replicas are asked in the order of `wish` until one is neither lost nor full; `by` is that one.
  // `id` as in Fleet::Next.
  template <class Request, class Response>
  grpc::Status AskAny(const grpc::ServerContext& context, const Wish& wish, const std::string& id,
                      Method<Request, Response> method, const Request& request, Response* response,
                      ReplicaPtr* by = nullptr);
  // The one where a session lives; `request` has its id as the replica knows it.
  template <class Request, class Response>
  grpc::Status AskHome(const grpc::ServerContext& context, Request request,
                       Method<Request, Response> method, Response* response);

  // All that can be reached, at the same time. OK when each did it. With `some_away` those that
  // cannot be reached are not waited for, as long as one did it.
  template <class Request, class Response>
  grpc::Status AskAll(const grpc::ServerContext& context, Method<Request, Response> method,
                      const Request& request, bool some_away, std::vector<Response>& responses);

  // Where the session of this outer name lives, and its id there. INVALID_ARGUMENT: no such name;
  // UNAVAILABLE: that replica is away.
  struct Home {
    ReplicaPtr replica;
    std::string id;
  };
  absl::StatusOr<Home> HomeOf(const std::string& session) const;

  const Options options_;
  Fleet& fleet_;
  RouterTelemetry& telemetry_;
  std::atomic<bool> draining_{false};
};

template <class Request, class Response>
grpc::Status RouterService::Ask(const grpc::ServerContext& context, const ReplicaPtr& replica,
                                Method<Request, Response> method, const Request& request,
                                Response* response) {
  response->Clear();
  const auto call = ContextFor(context);
  const grpc::Status status = (replica->stub.get()->*method)(call.get(), request, response);
  Note(context, replica, status);
  return status;
}

template <class Request, class Response>
grpc::Status RouterService::AskAny(const grpc::ServerContext& context, const Wish& wish,
                                   const std::string& id, Method<Request, Response> method,
                                   const Request& request, Response* response, ReplicaPtr* by) {
  const Stopwatch since_arrival = telemetry_.Arrived();
  std::vector<Said> said;
  std::vector<std::string> asked;
  while (const ReplicaPtr replica = fleet_.Next(wish, id, asked)) {
    if (!asked.empty()) telemetry_.Repeated();
    asked.push_back(replica->name);
    const double asked_after = since_arrival.Seconds();
    const grpc::Status status = Ask(context, replica, method, request, response);
    fleet_.Ended(replica, wish.samples);
    if (by != nullptr) *by = replica;
    const bool cancelled = context.IsCancelled();
    if (cancelled || !(IsFull(status) || IsLoss(status, cancelled))) {
      telemetry_.Added(asked_after);
      return status;
    }
    said.push_back({replica->name, status});
  }
  return said.empty() ? ToGrpc(fleet_.WhyNone()) : VerdictOf(said);
}

}  // namespace palimpsest::inference
