#include "absl/strings/str_format.h"
#include "absl/synchronization/notification.h"
#include "common/rpc/status.h"
#include "common/wire/context.h"
#include "common/wire/field.h"
#include "services/inference/server/request.h"
#include "services/inference/server/service.h"
#include "services/inference/server/session_request.h"
#include "services/inference/server/stream_writer.h"

// The calls about sessions. Creating, forking, listing and deleting wait for the forward pass that
// runs, an event for its turn in the queue.
namespace palimpsest::inference {
namespace {

constexpr int kDefaultPage = 100, kMaxPage = 1000;  // sessions of one List

// Keeps the engine whose sessions they are.
struct OpenSessions {
  std::shared_ptr<Engine> engine;
  Sessions* operator->() const { return engine->sessions(); }
};

absl::StatusOr<OpenSessions> SessionsOf(const Serving& serving, const char* call) {
  ASSIGN_OR_RETURN(std::shared_ptr<Engine> engine, serving.Loaded());
  if (engine->sessions() != nullptr) return OpenSessions{std::move(engine)};
  return absl::UnimplementedError(
      absl::StrFormat("%s: this server has no sessions (limits.max_sessions=0)", call));
}

// Waits for the one event of a step that makes one.
class EventSink final : public GenerationSink {
 public:
  void OnTokens(TokenChunk) override {}
  void OnEvent(int32_t, const context::Event& event) override { event_ = event; }
  void OnFinished(Finished) override { done_.Notify(); }
  void OnFailure(Failure failure) override {
    failure_ = std::move(failure.status);
    done_.Notify();
  }
  absl::StatusOr<context::Event> Wait() {
    done_.WaitForNotification();
    RETURN_IF_ERROR(failure_);
    if (!event_) return absl::InternalError("the step ended without an event");
    return *event_;
  }

 private:
  std::optional<context::Event> event_;
  absl::Status failure_;
  absl::Notification done_;
};

}  // namespace

grpc::Status InferenceServer::CreateSession(grpc::ServerContext*,
                                            const v1::CreateSessionRequest* request,
                                            v1::CreateSessionResponse* response) {
  const auto create = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const OpenSessions sessions, SessionsOf(serving_, "CreateSession"));
    RETURN_IF_ERROR(serving_.Admit().status());
    ASSIGN_OR_RETURN(SessionSpec spec, ParseCreateSession(*request, *sessions.engine));
    ASSIGN_OR_RETURN(const SessionInfo info, sessions->Create(std::move(spec)));
    *response->mutable_session() = ToProto(info);
    return absl::OkStatus();
  };
  return ToGrpc(create());
}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServer::StepSession(
    grpc::CallbackServerContext* context, const v1::StepSessionRequest* request) {
  const std::shared_ptr<StreamWriter> writer =
      StreamWriter::Create(options_.reader_queue, [this] { telemetry_.ReaderTooSlow(); });
  const absl::Time deadline = DeadlineOf(*context);
  const auto parse = [&](const Engine& engine) {
    return ParseStepSession(*request, engine, serving_.tokenizer().get(), deadline);
  };
  absl::Status status = CheckRequestId(request->request_id());
  if (status.ok()) status = SessionsOf(serving_, "StepSession").status();
  if (status.ok()) status = ListenTo(generations_.Join(*request), parse, writer);
  if (!status.ok()) writer->End(status);
  return writer.get();
}

grpc::Status InferenceServer::CompactSession(grpc::ServerContext* context,
                                             const v1::CompactSessionRequest* request,
                                             v1::CompactSessionResponse* response) {
  const auto compact = [&]() -> absl::Status {
    RETURN_IF_ERROR(SessionsOf(serving_, "CompactSession").status());
    ASSIGN_OR_RETURN(const std::shared_ptr<Engine> engine, serving_.Admit());
    ASSIGN_OR_RETURN(GenerationRequest parsed, ParseCompactSession(*request, DeadlineOf(*context)));
    const auto sink = std::make_shared<EventSink>();
    RETURN_IF_ERROR(engine->Submit(std::move(parsed), sink));
    ASSIGN_OR_RETURN(const context::Event event, sink->Wait());
    *response->mutable_event() = wire::ToProto(event);
    return absl::OkStatus();
  };
  return ToGrpc(compact());
}

grpc::Status InferenceServer::ForkSession(grpc::ServerContext*,
                                          const v1::ForkSessionRequest* request,
                                          v1::ForkSessionResponse* response) {
  const auto fork = [&]() -> absl::Status {
    ASSIGN_OR_RETURN(const OpenSessions sessions, SessionsOf(serving_, "ForkSession"));
    RETURN_IF_ERROR(serving_.Admit().status());
    RETURN_IF_ERROR(CheckForks(*request));
    ASSIGN_OR_RETURN(const auto forks,
                     sessions->Fork(request->request_id(), request->session_id(),
                                    {request->seeds().begin(), request->seeds().end()}));
    for (const SessionInfo& info : forks) *response->add_sessions() = ToProto(info);
    return absl::OkStatus();
  };
  return ToGrpc(fork());
}

// By id; the token of a page is the last id of the one before.
grpc::Status InferenceServer::ListSessions(grpc::ServerContext*,
                                           const v1::ListSessionsRequest* request,
                                           v1::ListSessionsResponse* response) {
  const auto sessions = SessionsOf(serving_, "ListSessions");
  if (!sessions.ok()) return ToGrpc(sessions.status());
  if (request->page_size() < 0 || request->page_size() > kMaxPage) {
    return ToGrpc(wire::Refused(
        "page_size", absl::StrFormat("%d is outside of [0, %d]", request->page_size(), kMaxPage)));
  }
  const int most = request->page_size() > 0 ? request->page_size() : kDefaultPage;
  for (const SessionInfo& info : (*sessions)->List(request->client())) {
    if (info.id <= request->page_token()) continue;
    if (response->sessions_size() == most) {
      response->set_next_page_token(response->sessions(most - 1).session_id());
      break;
    }
    *response->add_sessions() = ToProto(info);
  }
  return grpc::Status::OK;
}

grpc::Status InferenceServer::DeleteSession(grpc::ServerContext*,
                                            const v1::DeleteSessionRequest* request,
                                            v1::DeleteSessionResponse* response) {
  const auto sessions = SessionsOf(serving_, "DeleteSession");
  if (!sessions.ok()) return ToGrpc(sessions.status());
  response->set_existed((*sessions)->Delete(request->session_id()));
  return grpc::Status::OK;
}

}  // namespace palimpsest::inference
