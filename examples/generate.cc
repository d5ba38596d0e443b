// Streams one generation under compaction: generate_example HOST:PORT PROMPT [TLS_FOLDER].
// The address of a run's replica stands in <run>/addresses/inference-0, its certificates in
// <run>/tls.
#include <grpcpp/grpcpp.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <fstream>
#include <iterator>

#include "palimpsest/v1/inference.grpc.pb.h"

namespace v1 = palimpsest::v1;

namespace {

v1::GenerateRequest Request(const std::string& prompt) {
  v1::GenerateRequest request;
  // The same id again joins the same generation, so each life of this program takes its own.
  request.set_request_id("example-" + std::to_string(std::time(nullptr)) + "-" +
                         std::to_string(getpid()));
  request.set_prompt_text(prompt);
  request.set_stream_tokens(true);
  request.mutable_sampling()->set_max_tokens(64);
  request.mutable_sampling()->set_temperature(0);
  v1::KvBudgetTrigger& trigger = *request.mutable_context()->mutable_kv_budget();
  trigger.set_budget(32);  // slots, prompt included
  trigger.set_window(16);
  return request;
}

void Show(const v1::GenerateResponse& update) {
  switch (update.update_case()) {
    case v1::GenerateResponse::kTokens:
      std::fputs(update.tokens().text().c_str(), stdout);
      break;
    case v1::GenerateResponse::kCompaction: {
      const v1::CompactionEvent& event = update.compaction().event();
      std::printf("<%d..%d compacted at %d>", event.window().begin(), event.window().end(),
                  event.at());
      break;
    }
    case v1::GenerateResponse::kFinished:
      std::printf("\n%d events\n", update.finished().rollout().events_size());
      break;
    case v1::GenerateResponse::kError:
      std::printf("\nfailed: %s\n", update.error().message().c_str());
      break;
    default:
      break;
  }
}

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

// As the role client when `folder` holds ca.pem and client.pem (key and certificate in one file).
std::shared_ptr<grpc::ChannelCredentials> Credentials(const char* folder) {
  if (folder == nullptr) return grpc::InsecureChannelCredentials();
  const std::string own = ReadFile(std::string(folder) + "/client.pem");
  const std::string ca = ReadFile(std::string(folder) + "/ca.pem");
  return grpc::SslCredentials(
      {.pem_root_certs = ca, .pem_private_key = own, .pem_cert_chain = own});
}

}  // namespace

int main(int argc, char** argv) {
  if (argc != 3 && argc != 4) {
    std::fputs("usage: generate_example HOST:PORT PROMPT [TLS_FOLDER]\n", stderr);
    return 2;
  }
  const auto stub = v1::InferenceService::NewStub(
      grpc::CreateChannel(argv[1], Credentials(argc == 4 ? argv[3] : nullptr)));
  grpc::ClientContext context;
  context.set_deadline(std::chrono::system_clock::now() + std::chrono::minutes(1));
  const auto stream = stub->Generate(&context, Request(argv[2]));
  v1::GenerateResponse update;
  while (stream->Read(&update)) Show(update);
  const grpc::Status status = stream->Finish();
  if (status.ok()) return update.has_error() ? 1 : 0;
  std::fprintf(stderr, "%s\n", status.error_message().c_str());
  return 1;
}
