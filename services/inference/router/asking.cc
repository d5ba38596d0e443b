#include "services/inference/router/asking.h"

#include <algorithm>
#include <chrono>

#include "absl/status/status.h"
#include "absl/strings/str_format.h"
#include "common/rpc/channel.h"
#include "common/rpc/status.h"
#include "common/telemetry/trace.h"

namespace palimpsest::inference {

bool IsLoss(const grpc::Status& status, bool by_caller) {
  return status.error_code() == grpc::StatusCode::UNAVAILABLE ||
         (status.error_code() == grpc::StatusCode::CANCELLED && !by_caller);
}

bool IsFull(const grpc::Status& status) {
  return status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED;
}

AskOutcome OutcomeOf(const grpc::Status& status, bool by_caller) {
  if (status.ok()) return AskOutcome::kOk;
  if (IsFull(status)) return AskOutcome::kFull;
  if (IsLoss(status, by_caller)) return AskOutcome::kUnavailable;
  const bool cancelled = by_caller || status.error_code() == grpc::StatusCode::DEADLINE_EXCEEDED;
  return cancelled ? AskOutcome::kCancelled : AskOutcome::kRefused;
}

grpc::Status VerdictOf(const std::vector<Said>& said) {
  if (said.size() == 1 && said[0].status.error_code() != grpc::StatusCode::CANCELLED) {
    return said[0].status;
  }
  std::string all;
  for (const Said& one : said) {
    all += absl::StrFormat("%s%s: %s", all.empty() ? "" : "; ", one.replica,
                           one.status.error_message());
  }
  const bool full =
      std::any_of(said.begin(), said.end(), [](const Said& s) { return IsFull(s.status); });
  return ToGrpc(full ? absl::ResourceExhaustedError(all) : absl::UnavailableError(all));
}

grpc::Status About(const std::string& about, const grpc::Status& status) {
  if (status.ok()) return status;
  const absl::Status longer(static_cast<absl::StatusCode>(status.error_code()),
                            absl::StrFormat("%s: %s", about, status.error_message()));
  return {status.error_code(), ToGrpc(longer).error_message(), status.error_details()};
}

void PassOn(const grpc::ServerContextBase& from, absl::Duration longest, grpc::ClientContext& to) {
  if (from.deadline() == std::chrono::system_clock::time_point::max()) {
    SetTimeout(to, longest);
  } else {
    to.set_deadline(from.deadline());
  }
  const auto trace = from.client_metadata().find(kTraceparent);
  if (trace != from.client_metadata().end())
    to.AddMetadata(kTraceparent, std::string(trace->second.data(), trace->second.size()));
}

}  // namespace palimpsest::inference
