#include <algorithm>
#include <thread>

#include "absl/strings/str_format.h"
#include "common/rpc/status.h"
#include "services/inference/router/service.h"

// The calls that go to all replicas. They may be repeated without harm, so whoever hears that one
// of them failed asks again.
namespace palimpsest::inference {
namespace {

template <class Response>
struct Told {
  Fleet::Known known;
  std::unique_ptr<grpc::ClientContext> call;
  grpc::Status status;
  Response response;
};

template <class Response>
grpc::Status SumUp(const std::vector<Told<Response>>& told, bool some_away) {
  const auto is_done = [](const auto& t) { return t.status.ok(); };
  const auto done = std::count_if(told.begin(), told.end(), is_done);
  grpc::StatusCode code = grpc::StatusCode::OK;
  std::string failures;
  for (const auto& t : told) {
    const bool away = t.status.error_code() == grpc::StatusCode::UNAVAILABLE;
    if (t.status.ok() || (away && some_away && done > 0)) continue;
    if (code == grpc::StatusCode::OK || code == grpc::StatusCode::UNAVAILABLE) {
      code = t.status.error_code();
    }
    failures += absl::StrFormat("%s: %s; ", t.known.replica->name, t.status.error_message());
  }
  if (code == grpc::StatusCode::OK && done > 0) return grpc::Status::OK;
  if (told.empty()) return {grpc::StatusCode::UNAVAILABLE, "no replica is known"};
  return ToGrpc(absl::Status(static_cast<absl::StatusCode>(code),
                             absl::StrFormat("%s%d of %d did it", failures, done, told.size())));
}

}  // namespace

template <class Request, class Response>
grpc::Status RouterService::AskAll(const grpc::ServerContext& context,
                                   Method<Request, Response> method, const Request& request,
                                   bool some_away, std::vector<Response>& responses) {
  std::vector<Told<Response>> told;
  for (const Fleet::Known& known : fleet_.All()) {
    told.push_back({known, ContextFor(context), {grpc::StatusCode::UNAVAILABLE, known.why}, {}});
  }
  // A server context is of one thread: it is read before and after.
  std::vector<std::thread> threads;
  for (Told<Response>& t : told) {
    if (t.known.standing == Standing::kAway) continue;
    threads.emplace_back([&t, &request, method] {
      t.status = (t.known.replica->stub.get()->*method)(t.call.get(), request, &t.response);
    });
  }
  for (std::thread& thread : threads) thread.join();
  for (const Told<Response>& t : told) {
    if (t.known.standing != Standing::kAway) Note(context, t.known.replica, t.status);
    if (t.status.ok()) responses.push_back(t.response);
  }
  return SumUp(told, some_away);
}

// One that is away would come back unpaused: so none may be.
grpc::Status RouterService::Pause(grpc::ServerContext* context,
                                  const v1::InferenceServicePauseRequest* request,
                                  v1::InferenceServicePauseResponse* response) {
  std::vector<v1::InferenceServicePauseResponse> all;
  const grpc::Status status = AskAll(*context, &Stub::Pause, *request, false, all);
  for (const auto& one : all) response->set_running(response->running() + one.running());
  return status;
}

grpc::Status RouterService::Resume(grpc::ServerContext* context,
                                   const v1::InferenceServiceResumeRequest* request,
                                   v1::InferenceServiceResumeResponse*) {
  std::vector<v1::InferenceServiceResumeResponse> all;
  return AskAll(*context, &Stub::Resume, *request, true, all);
}

// The fleet ends, and the router with it.
grpc::Status RouterService::Drain(grpc::ServerContext* context,
                                  const v1::InferenceServiceDrainRequest* request,
                                  v1::InferenceServiceDrainResponse* response) {
  std::vector<v1::InferenceServiceDrainResponse> all;
  const grpc::Status status = AskAll(*context, &Stub::Drain, *request, true, all);
  for (const auto& one : all) {
    response->set_finished(response->finished() + one.finished());
    response->set_cancelled(response->cancelled() + one.cancelled());
  }
  if (status.ok()) {
    StartDraining();
    options_.drained();
  }
  return status;
}

grpc::Status RouterService::AbortAll(grpc::ServerContext* context,
                                     const v1::AbortAllRequest* request,
                                     v1::AbortAllResponse* response) {
  std::vector<v1::AbortAllResponse> all;
  const grpc::Status status = AskAll(*context, &Stub::AbortAll, *request, true, all);
  for (const auto& one : all) response->set_aborted(response->aborted() + one.aborted());
  return status;
}

// One that is away takes the newest version before it serves again, so nobody waits for it.
grpc::Status RouterService::UpdateWeights(grpc::ServerContext* context,
                                          const v1::UpdateWeightsRequest* request,
                                          v1::UpdateWeightsResponse* response) {
  std::vector<v1::UpdateWeightsResponse> all;
  const grpc::Status status = AskAll(*context, &Stub::UpdateWeights, *request, true, all);
  if (!status.ok()) return status;
  *response = all[0];
  for (const auto& one : all) {  // the lowest version, the longest times
    response->set_policy_version(std::min(response->policy_version(), one.policy_version()));
    response->set_load_seconds(std::max(response->load_seconds(), one.load_seconds()));
    response->set_stage_seconds(std::max(response->stage_seconds(), one.stage_seconds()));
    response->set_flip_seconds(std::max(response->flip_seconds(), one.flip_seconds()));
    response->set_already_live(response->already_live() && one.already_live());
  }
  return grpc::Status::OK;
}

}  // namespace palimpsest::inference
