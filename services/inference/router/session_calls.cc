#include <algorithm>

#include "absl/strings/str_format.h"
#include "common/rpc/status.h"
#include "services/inference/router/relay.h"
#include "services/inference/router/service.h"

// A session's KV and log live on one replica. Outside its id is "<replica>/<id>", so the router
// need not remember where; nothing about it is ever asked of another replica.
namespace palimpsest::inference {
namespace {

constexpr int kDefaultPage = 100, kMaxPage = 1000;  // sessions of one List, as of a replica

std::string Alone(const std::string& session, const std::string& replica) {
  return absl::StrFormat("session_id=%s lives on %s alone", session, replica);
}

void NameOutside(const ReplicaPtr& replica, v1::Session& session) {
  session.set_session_id(JoinSession(replica->name, session.session_id()));
}

}  // namespace

absl::StatusOr<RouterService::Home> RouterService::HomeOf(const std::string& session) const {
  const auto name = SplitSession(session);
  if (!name.has_value()) {
    return absl::InvalidArgumentError(absl::StrFormat(
        "session_id=%s: the ids of this router are of the form replica/id", session));
  }
  const auto known = fleet_.Find(name->replica);
  if (known.has_value() && known->standing != Standing::kAway) {
    return Home{known->replica, name->id};
  }
  return absl::UnavailableError(absl::StrFormat("%s, which %s", Alone(session, name->replica),
                                                known.has_value() ? known->why : "is not known"));
}

template <class Request, class Response>
grpc::Status RouterService::AskHome(const grpc::ServerContext& context, Request request,
                                    Method<Request, Response> method, Response* response) {
  const std::string session = request.session_id();
  const absl::StatusOr<Home> home = HomeOf(session);
  if (!home.ok()) return ToGrpc(home.status());
  request.set_session_id(home->id);
  const grpc::Status status = Ask(context, home->replica, method, request, response);
  if (!IsLoss(status, context.IsCancelled())) return status;
  return About(Alone(session, home->replica->name), status);
}

// By its request id, so that asking again comes to the session that there is. Its place is not
// work: loads are not looked at.
grpc::Status RouterService::CreateSession(grpc::ServerContext* context,
                                          const v1::CreateSessionRequest* request,
                                          v1::CreateSessionResponse* response) {
  ReplicaPtr by;
  const grpc::Status status =
      AskAny(*context, {.key = AffinityKey(request->request_id())},
             "create/" + request->request_id(), &Stub::CreateSession, *request, response, &by);
  if (status.ok()) NameOutside(by, *response->mutable_session());
  return status;
}

grpc::ServerWriteReactor<v1::GenerateResponse>* RouterService::StepSession(
    grpc::CallbackServerContext* context, const v1::StepSessionRequest* request) {
  const absl::StatusOr<Home> home = HomeOf(request->session_id());
  if (!home.ok()) return Relay::Refuse(ToGrpc(home.status()));
  const auto step = std::make_shared<v1::StepSessionRequest>(*request);
  step->set_session_id(home->id);
  Errand errand{.id = request->request_id(),
                .home = home->replica,
                .about = Alone(request->session_id(), home->replica->name),
                .start = [step](Stub& stub, grpc::ClientContext* call, Errand::Reactor* reactor) {
                  stub.async()->StepSession(call, step.get(), reactor);
                }};
  return Relay::Start(std::move(errand), *context, fleet_, telemetry_, options_.longest_call);
}

grpc::Status RouterService::CompactSession(grpc::ServerContext* context,
                                           const v1::CompactSessionRequest* request,
                                           v1::CompactSessionResponse* response) {
  return AskHome(*context, *request, &Stub::CompactSession, response);
}

grpc::Status RouterService::ForkSession(grpc::ServerContext* context,
                                        const v1::ForkSessionRequest* request,
                                        v1::ForkSessionResponse* response) {
  const grpc::Status status = AskHome(*context, *request, &Stub::ForkSession, response);
  if (!status.ok()) return status;
  const std::string replica = SplitSession(request->session_id())->replica;
  for (v1::Session& fork : *response->mutable_sessions()) {
    fork.set_session_id(JoinSession(replica, fork.session_id()));
  }
  return status;
}

grpc::Status RouterService::DeleteSession(grpc::ServerContext* context,
                                          const v1::DeleteSessionRequest* request,
                                          v1::DeleteSessionResponse* response) {
  return AskHome(*context, *request, &Stub::DeleteSession, response);
}

// Replica by replica, by name; the token of a page is the last outer id of the one before. Sessions
// of a replica that is away cannot be listed, nor stepped.
grpc::Status RouterService::ListSessions(grpc::ServerContext* context,
                                         const v1::ListSessionsRequest* request,
                                         v1::ListSessionsResponse* response) {
  if (request->page_size() < 0 || request->page_size() > kMaxPage) {
    return ToGrpc(absl::InvalidArgumentError(
        absl::StrFormat("page_size: %d is outside of [0, %d]", request->page_size(), kMaxPage)));
  }
  const int most = request->page_size() > 0 ? request->page_size() : kDefaultPage;
  SessionName after;
  if (!request->page_token().empty()) {
    const auto token = SplitSession(request->page_token());
    if (!token.has_value()) {
      return ToGrpc(absl::InvalidArgumentError(
          absl::StrFormat("page_token=%s is none of this router's", request->page_token())));
    }
    after = *token;
  }
  for (const Fleet::Known& known : fleet_.All()) {
    const std::string& name = known.replica->name;
    if (known.standing == Standing::kAway || name < after.replica) continue;
    const int left = most - response->sessions_size();
    if (left == 0) {  // the page is full, and there is one more replica
      response->set_next_page_token(response->sessions(most - 1).session_id());
      break;
    }
    v1::ListSessionsRequest part = *request;
    part.set_page_size(left);
    part.set_page_token(name == after.replica ? after.id : "");
    v1::ListSessionsResponse page;
    const grpc::Status status = Ask(*context, known.replica, &Stub::ListSessions, part, &page);
    if (!status.ok()) return About(name, status);
    for (v1::Session& session : *page.mutable_sessions()) {
      NameOutside(known.replica, session);
      *response->add_sessions() = std::move(session);
    }
    if (!page.next_page_token().empty()) {
      response->set_next_page_token(JoinSession(name, page.next_page_token()));
      break;
    }
  }
  return grpc::Status::OK;
}

}  // namespace palimpsest::inference
