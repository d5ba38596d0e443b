#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <filesystem>
#include <functional>

#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/weights/store.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tests/unit/common/weights/scratch_folder.h"

// The daemon itself, with the real engine, as a process of its own.
namespace palimpsest {
namespace {

constexpr char kModel[] = "tests/golden/model/qwen3_tied";

class ReplicaTest : public ::testing::Test {
 protected:
  void SetUp() override {
    weights::Write(scratch_ / "run.yaml", "run: {name: test, folder: " + run_ +
                                              "}\ninference: {store_poll: 50ms, threads: 1}\n");
    writer_ = *weights::StoreWriter::Open(run_ + "/store", {.run = "test"}, SystemClock());
  }
  void TearDown() override {
    if (pid_ > 0) kill(pid_, SIGKILL), waitpid(pid_, nullptr, 0);
  }
  void Publish(int64_t step) {
    const auto fill = [](const std::string& folder) {
      for (const auto& file : std::filesystem::directory_iterator(kModel)) {
        const std::string name = file.path().filename();
        if (name == "config.json" || name.ends_with(".safetensors")) {
          std::filesystem::copy(file.path(), folder + "/" + name);
        }
      }
      return absl::OkStatus();
    };
    const auto version = writer_->Publish(step, fill);
    ASSERT_TRUE(version.ok()) << version.status();
  }
  void StartDaemon() {
    std::string config = scratch_ / "run.yaml";
    std::string daemon = DAEMON, flag = "--config";
    char* argv[] = {daemon.data(), flag.data(), config.data(), nullptr};
    ASSERT_EQ(posix_spawn(&pid_, DAEMON, nullptr, nullptr, argv, environ), 0);
    absl::StatusOr<Address> address = absl::NotFoundError("");
    for (int i = 0; i < 300 && !(address.ok() && address->pid == pid_); ++i) {
      absl::SleepFor(absl::Milliseconds(100));
      address = ReadAddress(run_, "inference", 0);
    }
    ASSERT_TRUE(address.ok()) << address.status();
    stub_ = v1::InferenceService::NewStub(*MakeChannel(address->host_port, {}));
  }
  // Waits until it serves `version`.
  bool Serves(int64_t version) {
    for (int i = 0; i < 300; ++i) {
      const auto context = MakeContext({});
      v1::InferenceServiceGetServerInfoRequest request;
      request.set_revision(v1::CONTRACT_REVISION_CURRENT);
      v1::InferenceServiceGetServerInfoResponse response;
      if (stub_->GetServerInfo(context.get(), request, &response).ok() &&
          response.policy_version() == version) {
        return true;
      }
      absl::SleepFor(absl::Milliseconds(100));
    }
    return false;
  }
  // `heard` is told how many tokens have come, after each.
  v1::Rollout Generate(
      const std::string& id, int tokens = 40, const std::function<void(int)>& heard = [](int) {}) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    for (int token = 1; token <= 8; ++token) request.mutable_prompt_ids()->add_ids(token);
    request.mutable_sampling()->set_max_tokens(tokens);
    request.set_stream_tokens(true);
    request.mutable_sampling()->set_seed(7);
    request.mutable_sampling()->set_ignore_eos(true);
    auto* trigger = request.mutable_context()->mutable_kv_budget();
    trigger->set_budget(24);
    trigger->set_window(12);
    const auto context = MakeContext({});
    const auto reader = stub_->Generate(context.get(), request);
    v1::GenerateResponse update;
    for (int count = 0; reader->Read(&update);) {
      for (int i = 0; i < update.tokens().ids_size(); ++i) heard(++count);
    }
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    EXPECT_TRUE(update.has_finished()) << update.DebugString();
    return update.finished().rollout();
  }

  // A session of one policy; `change` says what is other about it.
  grpc::Status Create(
      const std::string& request_id, v1::Session& session,
      const std::function<void(v1::CreateSessionRequest&)>& change = [](auto&) {}) {
    v1::CreateSessionRequest request;
    request.set_request_id(request_id);
    request.set_seed(3);
    request.set_client("me");
    for (int token = 1; token <= 8; ++token) request.add_prompt_ids(token);
    request.mutable_context()->mutable_turns()->set_keep_ratio(0.25);
    change(request);
    v1::CreateSessionResponse response;
    const grpc::Status status = stub_->CreateSession(MakeContext({}).get(), request, &response);
    session = response.session();
    return status;
  }
  grpc::Status Step(const std::string& session, int tokens, const std::string& request_id,
                    v1::Rollout& rollout) {
    v1::StepSessionRequest request;
    request.set_request_id(request_id);
    request.set_session_id(session);
    request.set_expected_tokens(tokens);
    for (int token = 20; token < 30; ++token) request.add_new_ids(token);
    request.mutable_sampling()->set_max_tokens(10);
    request.mutable_sampling()->set_ignore_eos(true);
    const auto context = MakeContext({});
    const auto reader = stub_->StepSession(context.get(), request);
    v1::GenerateResponse update;
    while (reader->Read(&update)) continue;
    rollout = update.finished().rollout();
    return reader->Finish();
  }

  weights::ScratchFolder scratch_;
  const std::string run_ = scratch_ / "run";
  std::unique_ptr<weights::StoreWriter> writer_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
  pid_t pid_ = 0;
};

TEST_F(ReplicaTest, GeneratesUnderCompactionFollowsTheStoreAndEndsOnSigterm) {
  StartDaemon();  // before there are any weights
  Publish(0);
  ASSERT_TRUE(Serves(1));
  const v1::Rollout rollout = Generate("a");
  EXPECT_EQ(rollout.tokens_size(), 48);
  EXPECT_GE(rollout.events_size(), 2);
  ASSERT_EQ(rollout.spans_size(), 1);
  EXPECT_EQ(rollout.spans(0).policy_version(), 1);
  // New weights come to the store while a request runs, which is held for so long: one stream, two
  // versions.
  const v1::Rollout flipped = Generate("b", 400, [this](int tokens) {
    if (tokens != 20) return;
    v1::InferenceServicePauseResponse paused;
    ASSERT_TRUE(stub_->Pause(MakeContext({}).get(), {}, &paused).ok());
    Publish(1);
    EXPECT_TRUE(Serves(2));
    v1::InferenceServiceResumeResponse resumed;
    ASSERT_TRUE(stub_->Resume(MakeContext({}).get(), {}, &resumed).ok());
  });
  EXPECT_EQ(flipped.tokens_size(), 408);
  ASSERT_EQ(flipped.spans_size(), 2);
  EXPECT_EQ(flipped.spans(0).policy_version(), 1);
  EXPECT_EQ(flipped.spans(1).policy_version(), 2);
  EXPECT_GE(flipped.spans(1).begin(), 28);
  kill(pid_, SIGTERM);
  int status = 0;
  waitpid(std::exchange(pid_, 0), &status, 0);
  EXPECT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_TRUE(absl::IsNotFound(ReadAddress(run_, "inference", 0).status()));
}

// A conversation over the wire: made, stepped twice, compacted, forked, listed, deleted; the same
// step again gives the same stream; what does not fit is refused by name.
TEST_F(ReplicaTest, ServesSessions) {
  Publish(0);
  StartDaemon();
  ASSERT_TRUE(Serves(1));
  const auto call = [&](auto method, const auto& request, auto& response) {
    return (stub_.get()->*method)(MakeContext({}).get(), request, &response);
  };
  using Stub = v1::InferenceService::Stub;
  const auto of_version = [](int64_t version) {
    return [version](v1::CreateSessionRequest& request) {
      request.mutable_context()->mutable_manual()->set_keep_ratio(0.25);
      request.set_min_policy_version(version);
    };
  };
  v1::Session created;
  const grpc::Status older = Create("c", created, of_version(2));
  EXPECT_EQ(older.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(older.error_message(), ::testing::HasSubstr("min_policy_version=2"));
  ASSERT_TRUE(Create("c", created, of_version(1)).ok());
  const std::string id = created.session_id();
  EXPECT_EQ(created.tokens(), 8);

  const auto step = [&](int tokens, const std::string& request_id, v1::Rollout& rollout) {
    return Step(id, tokens, request_id, rollout);
  };
  v1::Rollout first, again, second;
  ASSERT_TRUE(step(8, "s1", first).ok());
  EXPECT_EQ(first.tokens_size(), 28);
  ASSERT_TRUE(step(8, "s1", again).ok());
  EXPECT_EQ(again.SerializeAsString(), first.SerializeAsString());
  const grpc::Status stale = step(8, "s2", again);
  EXPECT_EQ(stale.error_code(), grpc::StatusCode::FAILED_PRECONDITION);
  EXPECT_THAT(stale.error_message(), ::testing::HasSubstr("expected_tokens=8"));

  v1::CompactSessionRequest compact;
  compact.set_request_id("e");
  compact.set_session_id(id);
  compact.set_expected_tokens(28);
  compact.mutable_window()->set_begin(8);
  compact.mutable_window()->set_end(24);
  v1::CompactSessionResponse compacted, same;
  const grpc::Status status = call(&Stub::CompactSession, compact, compacted);
  ASSERT_TRUE(status.ok()) << status.error_message();
  EXPECT_EQ(compacted.event().at(), 27);
  ASSERT_TRUE(call(&Stub::CompactSession, compact, same).ok());
  EXPECT_EQ(same.event().digest(), compacted.event().digest());
  *compact.mutable_forced() = compacted.event();
  ASSERT_TRUE(call(&Stub::CompactSession, compact, same).ok());
  EXPECT_EQ(same.event().digest(), compacted.event().digest());
  compact.mutable_window()->set_end(20);
  const grpc::Status other = call(&Stub::CompactSession, compact, same);
  EXPECT_EQ(other.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
  EXPECT_THAT(other.error_message(), ::testing::StartsWith("forced.window"));

  v1::ForkSessionRequest fork;
  fork.set_request_id("f");
  fork.set_session_id(id);
  fork.set_forks(2);
  fork.add_seeds(1);
  EXPECT_EQ(
      call(&Stub::ForkSession, fork, *std::make_unique<v1::ForkSessionResponse>()).error_code(),
      grpc::StatusCode::INVALID_ARGUMENT);
  fork.add_seeds(2);
  v1::ForkSessionResponse forks;
  ASSERT_TRUE(call(&Stub::ForkSession, fork, forks).ok());
  EXPECT_EQ(forks.sessions(1).tokens(), 28);
  ASSERT_TRUE(step(28, "s3", second).ok());
  EXPECT_EQ(second.tokens_size(), 48);
  EXPECT_EQ(second.events_size(), 1);

  v1::ListSessionsRequest list;
  list.set_client("me");
  list.set_page_size(2);
  v1::ListSessionsResponse page, rest;
  ASSERT_TRUE(call(&Stub::ListSessions, list, page).ok());
  EXPECT_EQ(page.sessions_size(), 2);
  list.set_page_token(page.next_page_token());
  ASSERT_TRUE(call(&Stub::ListSessions, list, rest).ok());
  EXPECT_EQ(rest.sessions_size(), 1);
  EXPECT_EQ(rest.next_page_token(), "");

  v1::DeleteSessionRequest gone;
  gone.set_session_id(id);
  v1::DeleteSessionResponse deleted;
  ASSERT_TRUE(call(&Stub::DeleteSession, gone, deleted).ok());
  EXPECT_TRUE(deleted.existed());
  EXPECT_EQ(step(48, "s4", again).error_code(), grpc::StatusCode::NOT_FOUND);
}

TEST_F(ReplicaTest, AfterKillMinusNineARestartGeneratesTheSame) {
  Publish(0);
  StartDaemon();
  ASSERT_TRUE(Serves(1));
  const v1::Rollout before = Generate("a");
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  StartDaemon();
  ASSERT_TRUE(Serves(1));
  const v1::Rollout after = Generate("a");
  EXPECT_THAT(after.tokens(), ::testing::ElementsAreArray(before.tokens()));
}

// Whoever kept the log of a session goes on where it ended; draws are of seed and position.
TEST_F(ReplicaTest, AfterKillMinusNineASessionGoesOnFromItsLog) {
  Publish(0);
  StartDaemon();
  ASSERT_TRUE(Serves(1));
  v1::Session session;
  ASSERT_TRUE(Create("c", session).ok());
  v1::Rollout log, whole, after;
  ASSERT_TRUE(Step(session.session_id(), 8, "s1", log).ok());
  ASSERT_TRUE(Step(session.session_id(), 28, "s2", log).ok());
  ASSERT_TRUE(Step(session.session_id(), 48, "s3", whole).ok());
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
  StartDaemon();
  ASSERT_TRUE(Serves(1));
  const auto from_log = [&](v1::CreateSessionRequest& request) { *request.mutable_begun() = log; };
  const auto refused = [&](const char* why, const auto& spoil) {
    const grpc::Status status = Create("c", session, [&](v1::CreateSessionRequest& request) {
      from_log(request);
      spoil(request);
    });
    EXPECT_EQ(status.error_code(), grpc::StatusCode::INVALID_ARGUMENT);
    EXPECT_THAT(status.error_message(), ::testing::StartsWith(why));
  };
  refused("begun.spans: end at 60, not at 48 tokens",
          [](auto& request) { request.mutable_begun()->mutable_spans()->rbegin()->set_end(60); });
  refused("begun.seed=3, the request's is 4", [](auto& request) { request.set_seed(4); });
  refused("begun.prompt_tokens=8", [](auto& request) { request.set_prompt_ids(1, 9); });
  refused("begun.events", [](auto& request) {
    request.mutable_context()->mutable_turns()->set_n_protect_turns(5);
  });
  ASSERT_TRUE(Create("c", session, from_log).ok());
  EXPECT_EQ(session.tokens(), 48);
  EXPECT_EQ(session.turns(), 2);
  EXPECT_FALSE(session.resident());
  ASSERT_TRUE(Step(session.session_id(), 48, "s3", after).ok());
  EXPECT_THAT(after.tokens(), ::testing::ElementsAreArray(whole.tokens()));
  ASSERT_EQ(after.events_size(), whole.events_size());
  ASSERT_GT(after.events_size(), log.events_size());
  EXPECT_EQ(after.events().rbegin()->digest(), whole.events().rbegin()->digest());
  EXPECT_EQ(after.spans().rbegin()->kv_epoch(), 1);
}

}  // namespace
}  // namespace palimpsest
