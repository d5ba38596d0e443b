#include <set>

#include "tests/unit/services/inference/router/router_fixture.h"

namespace palimpsest::inference {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using Stub = v1::InferenceService::StubInterface;

class SessionsTest : public RouterTest {
 protected:
  void StartFleetWithSessions() {
    const std::vector engines{std::make_shared<ScriptedEngine>(),
                              std::make_shared<ScriptedEngine>()};
    engines[0]->OfferSessions("s");
    engines[1]->OfferSessions("s");  // the same ids as the other's
    StartFleet(engines);
  }
  std::string Create(const std::string& request_id) {
    v1::CreateSessionRequest request;
    request.set_request_id(request_id);
    request.set_client("me");
    v1::CreateSessionResponse response;
    const grpc::Status status = Unary(&Stub::CreateSession, request, response);
    EXPECT_TRUE(status.ok()) << status.error_message();
    return response.session().session_id();
  }
  // One session on each replica.
  std::vector<std::string> CreateOnBoth() {
    std::vector<std::string> names(2);
    for (int i = 0; names[0].empty() || names[1].empty(); ++i) {
      const std::string name = Create("c" + std::to_string(i));
      names[name.starts_with("inference-1") ? 1 : 0] = name;
    }
    return names;
  }
  Stream Step(const std::string& session, const std::string& request_id) {
    v1::StepSessionRequest request;
    request.set_request_id(request_id);
    request.set_session_id(session);
    for (const int id : {1, 2}) request.add_new_ids(id);
    request.set_stream_tokens(true);
    Stream stream{.context = Context()};
    stream.reader = stub_->StepSession(stream.context.get(), request);
    return stream;
  }
  std::vector<std::string> List(int page_size) {
    std::vector<std::string> names;
    v1::ListSessionsRequest request;
    request.set_page_size(page_size);
    do {
      v1::ListSessionsResponse page;
      EXPECT_TRUE(Unary(&Stub::ListSessions, request, page).ok());
      EXPECT_LE(page.sessions_size(), page_size);
      for (const auto& session : page.sessions()) names.push_back(session.session_id());
      request.set_page_token(page.next_page_token());
    } while (!request.page_token().empty());
    return names;
  }
};

TEST_F(SessionsTest, ASessionStaysWhereItIsAlsoOverARestartOfTheRouter) {
  StartFleetWithSessions();
  const std::vector<std::string> names = CreateOnBoth();
  for (int rank : {0, 1}) {
    const std::string id = "step" + std::to_string(rank);
    Stream stream = Step(names[rank], id);
    ASSERT_EQ(stream.Next(), "accepted");
    EXPECT_EQ(RankOf(id), rank);
    // Its own name is what the replica hears.
    const SessionName inner = *SplitSession(names[rank]);
    EXPECT_EQ(engine(rank).submission(0).step->id, inner.id);
    engine(rank).Token(id);
    engine(rank).Finish(id);
    EXPECT_THAT(stream.Rest(), ElementsAre("tokens 2+1", "finished 0", "end"));
  }
  router_.reset();
  StartRouter();
  for (int rank : {0, 1}) {
    engine(rank).FinishInsideSubmit(1);
    EXPECT_EQ(Step(names[rank], "again" + std::to_string(rank)).Rest().back(), "end");
    EXPECT_EQ(RankOf("again" + std::to_string(rank)), rank);
  }
}

// The router went while a step was streamed: the caller asks again, with the same id.
TEST_F(SessionsTest, AStepThatTheRouterDroppedIsAskedForAgain) {
  StartFleetWithSessions();
  const std::string name = CreateOnBoth()[0];
  Stream first = Step(name, "a");
  ASSERT_EQ(first.Next(), "accepted");
  router_.reset();
  EXPECT_THAT(first.Next(), StartsWith("status"));
  ASSERT_TRUE(engine(0).WaitForCancel("a"));  // nobody listened any more
  StartRouter();
  engine(0).FinishInsideSubmit(1);
  EXPECT_EQ(Step(name, "a").Rest().back(), "end");
  EXPECT_EQ(engine(0).submissions(), 2u);
  EXPECT_EQ(engine(1).submissions(), 0u);
}

TEST_F(SessionsTest, CreatingAgainGivesTheSameSession) {
  StartFleetWithSessions();
  EXPECT_EQ(Create("x"), Create("x"));
  EXPECT_NE(Create("x"), Create("y"));
}

// A log is no place: the session is made wherever its request id leads.
TEST_F(SessionsTest, ALogIsCarriedToWhicheverReplica) {
  StartFleetWithSessions();
  std::set<std::string> replicas;
  for (int i = 0; i < 16; ++i) {
    v1::CreateSessionRequest request;
    request.set_request_id("log" + std::to_string(i));
    v1::Rollout& begun = *request.mutable_begun();
    begun.set_id("x/0");
    begun.set_prompt_tokens(1);
    for (const bool sampled : {false, true}) {
      begun.add_tokens(7);
      begun.add_origins(sampled ? v1::TOKEN_ORIGIN_SAMPLED : v1::TOKEN_ORIGIN_PROMPT);
      begun.add_logprobs(sampled ? -1 : 0);
    }
    v1::ProvenanceSpan& span = *begun.add_spans();
    span.set_begin(1);
    span.set_end(2);
    begun.set_finish_reason(v1::FINISH_REASON_STOP);
    begun.set_temperature(1);
    request.add_prompt_ids(7);
    v1::CreateSessionResponse response;
    const grpc::Status status = Unary(&Stub::CreateSession, request, response);
    ASSERT_TRUE(status.ok()) << status.error_message();
    EXPECT_EQ(response.session().tokens(), 2);
    replicas.insert(SplitSession(response.session().session_id())->replica);
    span.set_end(3);
    const grpc::Status broken = Unary(&Stub::CreateSession, request, response);
    EXPECT_THAT(broken.error_message(), HasSubstr("begun.spans: end at 3, not at 2 tokens"));
  }
  EXPECT_EQ(replicas.size(), 2u);
}

TEST_F(SessionsTest, AStepIsNeverMoved) {
  StartFleetWithSessions();
  const std::vector<std::string> names = CreateOnBoth();
  Stream early = Step(names[0], "early");
  ASSERT_EQ(early.Next(), "accepted");
  nodes_[0]->Kill();
  EXPECT_THAT(early.Rest(), ElementsAre("error 0", "end"));
  EXPECT_TRUE(early.last.error().retryable());
  EXPECT_THAT(early.last.error().message(), HasSubstr("lives on inference-0 alone"));
  ASSERT_TRUE(router_->WaitForReady(1));
  EXPECT_THAT(Step(names[0], "late").Next(),
              StartsWith("status 14 session_id=" + names[0] + " lives on inference-0 alone"));
  EXPECT_EQ(engine(1).submissions(), 0u);
  v1::DeleteSessionRequest gone;
  gone.set_session_id(names[0]);
  v1::DeleteSessionResponse deleted;
  EXPECT_EQ(Unary(&Stub::DeleteSession, gone, deleted).error_code(), grpc::StatusCode::UNAVAILABLE);
}

TEST_F(SessionsTest, ForksAreNamedAndPagesMerge) {
  StartFleetWithSessions();
  const std::vector<std::string> names = CreateOnBoth();
  v1::ForkSessionRequest fork;
  fork.set_request_id("f");
  fork.set_session_id(names[1]);
  fork.set_forks(3);
  for (uint64_t seed : {1, 2, 3}) fork.add_seeds(seed);
  v1::ForkSessionResponse forks;
  ASSERT_TRUE(Unary(&Stub::ForkSession, fork, forks).ok());
  ASSERT_EQ(forks.sessions_size(), 3);
  for (const auto& session : forks.sessions()) {
    EXPECT_THAT(session.session_id(), StartsWith("inference-1/s"));
  }
  const std::vector<std::string> all = List(1000);
  EXPECT_GE(all.size(), 5u);
  EXPECT_TRUE(std::is_sorted(all.begin(), all.end()));
  for (int page = 1; page <= 6; ++page) EXPECT_EQ(List(page), all) << page;
  v1::DeleteSessionRequest gone;
  gone.set_session_id(names[1]);
  v1::DeleteSessionResponse deleted;
  ASSERT_TRUE(Unary(&Stub::DeleteSession, gone, deleted).ok());
  EXPECT_TRUE(deleted.existed());
  EXPECT_EQ(List(1000).size(), all.size() - 1);
}

TEST_F(SessionsTest, NamesAndTokensThatAreNotOursAreRefused) {
  StartFleetWithSessions();
  EXPECT_THAT(Step("s0", "a").Next(), StartsWith("status 3 session_id=s0"));
  EXPECT_THAT(Step("inference-7/s0", "a").Next(), HasSubstr("which is not known"));
  v1::ListSessionsRequest request;
  request.set_page_token("s0");
  v1::ListSessionsResponse page;
  EXPECT_THAT(Unary(&Stub::ListSessions, request, page).error_message(),
              StartsWith("page_token=s0"));
}

}  // namespace
}  // namespace palimpsest::inference
