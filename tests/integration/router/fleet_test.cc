#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>

#include <atomic>
#include <filesystem>
#include <map>
#include <thread>

#include "common/rpc/address.h"
#include "common/rpc/channel.h"
#include "common/weights/store.h"
#include "palimpsest/v1/inference.grpc.pb.h"
#include "tests/unit/common/weights/scratch_folder.h"

// Two replicas with the real engine and a router before them, each a process of its own.
namespace palimpsest {
namespace {

constexpr char kModel[] = "tests/golden/model/qwen3_tied";
constexpr int kThreads = 6, kRequestsOfEach = 5, kTokens = 120, kPrompt = 8;
constexpr absl::Duration kPatience = absl::Seconds(60);

// What one caller heard of one request.
struct Heard {
  int accepted = 0, finished = 0, errors = 0, retries = 0;
  bool in_order = true;  // chunks follow one another; nothing came after the end
  bool retryable = true;
  std::vector<int32_t> tokens;  // of the finished rollout
};

class FleetTest : public ::testing::Test {
 protected:
  void SetUp() override {
    weights::Write(scratch_ / "run.yaml",
                   "run: {name: test, folder: " + run_ +
                       "}\ninference: {store_poll: 50ms, threads: 1, batch_invariant: true}\n"
                       "router: {poll: 100ms}\n");
    const auto writer =
        *weights::StoreWriter::Open(run_ + "/store", {.run = "test"}, SystemClock());
    const auto fill = [](const std::string& folder) {
      for (const auto& file : std::filesystem::directory_iterator(kModel)) {
        const std::string name = file.path().filename();
        if (name == "config.json" || name.ends_with(".safetensors")) {
          std::filesystem::copy(file.path(), folder + "/" + name);
        }
      }
      return absl::OkStatus();
    };
    ASSERT_TRUE(writer->Publish(0, fill).ok());
    Start("inference", 0, "inference.rank=0");
    Start("inference", 1, "inference.rank=1");
    StartRouter();
    ASSERT_TRUE(Serve(2));
  }
  void TearDown() override {
    for (const auto& [name, pid] : pids_) kill(pid, SIGKILL), waitpid(pid, nullptr, 0);
  }

  void Start(const std::string& role, int rank, std::string set) {
    std::string config = scratch_ / "run.yaml", daemon = DAEMON, flag = "--config", more = "--set";
    char* argv[] = {daemon.data(), flag.data(), config.data(), more.data(), set.data(), nullptr};
    pid_t pid = 0;
    ASSERT_EQ(posix_spawn(&pid, DAEMON, nullptr, nullptr, argv, environ), 0);
    pids_[role + "-" + std::to_string(rank)] = pid;
  }
  void StartRouter() {
    Start("router", 0, "router.enabled=true");
    const pid_t pid = pids_["router-0"];
    absl::StatusOr<Address> address = absl::NotFoundError("");
    for (int i = 0; i < 600 && !(address.ok() && address->pid == pid); ++i) {
      absl::SleepFor(absl::Milliseconds(100));
      address = ReadAddress(run_, "router", 0);
    }
    ASSERT_TRUE(address.ok()) << address.status();
    stub_ = v1::InferenceService::NewStub(*MakeChannel(address->host_port, {}));
  }
  void Kill(const std::string& name) {
    kill(pids_.at(name), SIGKILL);
    waitpid(pids_.at(name), nullptr, 0);
    pids_.erase(name);
  }
  // Waits until the router counts on that many replicas.
  bool Serve(int replicas) {
    for (int i = 0; i < 600; ++i) {
      const auto context = Context();
      v1::InferenceServiceGetServerInfoRequest request;
      request.set_revision(v1::CONTRACT_REVISION_CURRENT);
      v1::InferenceServiceGetServerInfoResponse info;
      if (stub_->GetServerInfo(context.get(), request, &info).ok() &&
          info.limits().max_samples() == (replicas > 0 ? 256 : 0) &&
          info.limits().max_running() == 64 * replicas) {
        return true;
      }
      absl::SleepFor(absl::Milliseconds(100));
    }
    return false;
  }
  static std::unique_ptr<grpc::ClientContext> Context() {
    auto context = MakeContext({});
    SetTimeout(*context, kPatience);
    return context;
  }
  static v1::GenerateRequest Request(int prompt, const std::string& id) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    for (int i = 0; i < kPrompt; ++i) request.mutable_prompt_ids()->add_ids(1 + prompt + i);
    request.mutable_sampling()->set_max_tokens(kTokens);
    request.mutable_sampling()->set_seed(7);
    request.mutable_sampling()->set_ignore_eos(true);
    request.set_stream_tokens(true);
    return request;
  }
  // One call, told to `heard`.
  grpc::Status CallOnce(const v1::GenerateRequest& request, Heard& heard,
                        const std::function<void()>& token) {
    const auto context = Context();
    const auto reader = stub_->Generate(context.get(), request);
    int next = kPrompt;
    bool ended = false;
    for (v1::GenerateResponse update; reader->Read(&update);) {
      heard.in_order &= !ended;
      heard.accepted += update.has_accepted();
      ended |= update.has_finished() || update.has_error();
      if (update.has_tokens()) {
        heard.in_order &= update.tokens().begin() == next;
        next += update.tokens().ids_size();
        token();
      } else if (update.has_finished()) {
        ++heard.finished;
        const auto& tokens = update.finished().rollout().tokens();
        heard.tokens.assign(tokens.begin(), tokens.end());
      } else if (update.has_error()) {
        ++heard.errors;
        heard.retryable &= update.error().retryable();
      }
    }
    return reader->Finish();
  }
  // Asks until it has finished, as a client of the contract does: again with the same id.
  Heard CallUntilFinished(const v1::GenerateRequest& request, const std::function<void()>& token) {
    Heard all;
    for (int attempt = 0; attempt < 20 && all.finished == 0; ++attempt) {
      Heard once;
      const grpc::Status status = CallOnce(request, once, token);
      EXPECT_TRUE(status.ok() || status.error_code() == grpc::StatusCode::UNAVAILABLE);
      EXPECT_EQ(once.finished + once.errors, status.ok() ? 1 : 0) << status.error_message();
      EXPECT_EQ(once.accepted, status.ok() ? 1 : 0);
      EXPECT_TRUE(once.in_order && once.retryable);
      all.finished += once.finished;
      all.errors += once.errors;
      if (once.finished > 0) all.tokens = once.tokens;
      if (once.finished == 0) ++all.retries, absl::SleepFor(absl::Milliseconds(50));
    }
    return all;
  }

  weights::ScratchFolder scratch_;
  const std::string run_ = scratch_ / "run";
  std::map<std::string, pid_t> pids_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

TEST_F(FleetTest, WhenAReplicaIsKilledUnderLoadEveryRequestEndsOnceWithItsTokens) {
  std::vector<std::vector<int32_t>> expected;
  for (int prompt = 0; prompt < kThreads; ++prompt) {
    expected.push_back(
        CallUntilFinished(Request(prompt, "calm-" + std::to_string(prompt)), [] {}).tokens);
    ASSERT_EQ(expected.back().size(), kPrompt + kTokens);
  }
  std::atomic<int> chunks = 0, finished = 0, errors = 0;
  std::vector<std::thread> callers;
  for (int prompt = 0; prompt < kThreads; ++prompt) {
    callers.emplace_back([&, prompt] {
      for (int i = 0; i < kRequestsOfEach; ++i) {
        const std::string id = std::to_string(prompt) + "-" + std::to_string(i);
        const Heard heard = CallUntilFinished(Request(prompt, id), [&] { ++chunks; });
        EXPECT_EQ(heard.finished, 1) << id;
        EXPECT_EQ(heard.tokens, expected[static_cast<size_t>(prompt)]) << id;
        finished += heard.finished;
        errors += heard.errors;
      }
    });
  }
  while (chunks < 200) absl::SleepFor(absl::Milliseconds(5));  // both are in the middle of streams
  Kill("inference-1");
  for (std::thread& caller : callers) caller.join();
  EXPECT_EQ(finished, kThreads * kRequestsOfEach);
  EXPECT_LE(errors, kThreads);  // only what had begun on the one that was killed
  EXPECT_TRUE(Serve(1));
  Start("inference", 1, "inference.rank=1");
  EXPECT_TRUE(Serve(2));  // it comes back by itself
}

TEST_F(FleetTest, AConversationGoesOnAfterTheRouterWasKilled) {
  const auto call = [&](auto method, const auto& request, auto& response) {
    return (stub_.get()->*method)(Context().get(), request, &response);
  };
  using Stub = v1::InferenceService::Stub;
  v1::CreateSessionRequest create;
  create.set_request_id("c");
  create.set_seed(3);
  for (int token = 1; token <= kPrompt; ++token) create.add_prompt_ids(token);
  create.mutable_context()->mutable_manual()->set_keep_ratio(0.25);
  v1::CreateSessionResponse created;
  ASSERT_TRUE(call(&Stub::CreateSession, create, created).ok());
  const std::string id = created.session().session_id();
  EXPECT_THAT(id, ::testing::MatchesRegex("inference-[01]/s[0-9a-f]+"));
  const auto step = [&](int tokens, const std::string& request_id) {
    v1::StepSessionRequest request;
    request.set_request_id(request_id);
    request.set_session_id(id);
    request.set_expected_tokens(tokens);
    for (int token = 20; token < 30; ++token) request.add_new_ids(token);
    request.mutable_sampling()->set_max_tokens(10);
    request.mutable_sampling()->set_ignore_eos(true);
    const auto context = Context();
    const auto reader = stub_->StepSession(context.get(), request);
    v1::GenerateResponse update;
    while (reader->Read(&update)) continue;
    const grpc::Status status = reader->Finish();
    EXPECT_TRUE(status.ok()) << status.error_message();
    return update.finished().rollout().tokens_size();
  };
  EXPECT_EQ(step(8, "s1"), 28);
  Kill("router-0");
  StartRouter();
  ASSERT_TRUE(Serve(2));
  v1::CompactSessionRequest compact;
  compact.set_request_id("e");
  compact.set_session_id(id);
  compact.set_expected_tokens(28);
  compact.mutable_window()->set_begin(8);
  compact.mutable_window()->set_end(24);
  v1::CompactSessionResponse compacted;
  ASSERT_TRUE(call(&Stub::CompactSession, compact, compacted).ok());
  EXPECT_EQ(compacted.event().at(), 27);
  EXPECT_EQ(step(28, "s2"), 48);
  v1::ListSessionsResponse listed;
  ASSERT_TRUE(call(&Stub::ListSessions, v1::ListSessionsRequest(), listed).ok());
  ASSERT_EQ(listed.sessions_size(), 1);
  EXPECT_EQ(listed.sessions(0).session_id(), id);
  EXPECT_EQ(listed.sessions(0).tokens(), 48);
}

}  // namespace
}  // namespace palimpsest
