#pragma once

#include <gmock/gmock.h>
#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "common/rpc/channel.h"
#include "common/rpc/server.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "services/inference/server/service.h"
#include "tests/unit/common/weights/scratch_folder.h"
#include "tests/unit/services/inference/server/scripted_engine.h"

namespace palimpsest::inference {

// The service over a scripted engine, on a loopback port.
class ServerTest : public ::testing::Test {
 protected:
  void StartServer(bool with_engine = true, int reader_queue = 1000) {
    if (with_engine) InstallEngine();
    InferenceServer::Options options{.reader_queue = reader_queue};
    options.info.set_revision(v1::CONTRACT_REVISION_CURRENT);
    options.info.set_role("inference");
    options.max_scores = 2;
    options.apply_weights = [this](const Announcement& announcement, WeightsMode mode, absl::Time) {
      announced_mode_ = mode;
      announced_ = announcement;
      return engine_->UpdateWeights("folder", announcement.version, mode);
    };
    options.drained = [this] { ++drained_; };
    service_ = std::make_unique<InferenceServer>(options, serving_, telemetry_, SystemClock());
    auto server = RpcServer::Start({.drain = absl::Milliseconds(200)}, {service_.get()}, metrics_,
                                   SystemClock());
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    stub_ = v1::InferenceService::NewStub(*MakeChannel(FrontOf(server_->address()), {}));
  }
  // Where clients connect to.
  virtual std::string FrontOf(const std::string& server) { return server; }
  void InstallEngine() {
    const std::vector<std::string> special{"<|end|>", "<|im_start|>", "<|im_end|>"};
    serving_.Install(engine_, *Tokenizer::FromJson(*ByteTokenizerJson(special)),
                     std::make_shared<const FolderChat>(FolderChat::Read(model_.path())));
  }
  void TearDown() override {
    engine_->Drain(absl::ZeroDuration());
    if (server_ != nullptr) server_->Shutdown();
  }

  static v1::GenerateRequest Request(const std::string& id) {
    v1::GenerateRequest request;
    request.set_request_id(id);
    for (const int32_t token : {1, 2, 3}) request.mutable_prompt_ids()->add_ids(token);
    request.set_stream_tokens(true);
    return request;
  }
  static std::unique_ptr<grpc::ClientContext> Context(absl::Duration timeout = absl::Seconds(20)) {
    auto context = MakeContext({});
    SetTimeout(*context, timeout);
    return context;
  }

  // One call of Generate, read by the test's thread.
  struct Stream {
    std::unique_ptr<grpc::ClientContext> context;
    std::unique_ptr<grpc::ClientReader<v1::GenerateResponse>> reader;

    // "accepted", "tokens 3+1", "compaction", "finished 0", "error 0", or the status at the end.
    std::string Next() {
      v1::GenerateResponse update;
      if (!reader->Read(&update)) {
        const grpc::Status status = reader->Finish();
        return status.ok()
                   ? "end"
                   : "status " + std::to_string(status.error_code()) + " " + status.error_message();
      }
      last = update;
      switch (update.update_case()) {
        case v1::GenerateResponse::kAccepted:
          return "accepted";
        case v1::GenerateResponse::kTokens:
          return "tokens " + std::to_string(update.tokens().begin()) + "+" +
                 std::to_string(update.tokens().ids_size());
        case v1::GenerateResponse::kCompaction:
          return "compaction";
        case v1::GenerateResponse::kFinished:
          return "finished " + std::to_string(update.finished().sample());
        case v1::GenerateResponse::kError:
          return "error " + std::to_string(update.error().sample());
        default:
          return "nothing";
      }
    }
    std::vector<std::string> Rest() {
      std::vector<std::string> all;
      do {
        all.push_back(Next());
      } while (all.back() != "end" && all.back().rfind("status", 0) != 0);
      return all;
    }
    v1::GenerateResponse last;
  };
  Stream Call(const v1::GenerateRequest& request, absl::Duration timeout = absl::Seconds(20)) {
    Stream stream{.context = Context(timeout)};
    stream.reader = stub_->Generate(stream.context.get(), request);
    return stream;
  }

  weights::ScratchFolder model_;  // where the chat template is looked for
  std::shared_ptr<ScriptedEngine> engine_ = std::make_shared<ScriptedEngine>();
  Metrics metrics_{"inference", "test", SystemClock()};
  Telemetry telemetry_{metrics_};
  Serving serving_;
  Announcement announced_;
  WeightsMode announced_mode_ = WeightsMode::kKeep;
  std::atomic<int> drained_{0};
  std::unique_ptr<InferenceServer> service_;
  std::unique_ptr<RpcServer> server_;
  std::unique_ptr<v1::InferenceService::Stub> stub_;
};

}  // namespace palimpsest::inference
