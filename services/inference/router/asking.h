#pragma once

#include <grpcpp/grpcpp.h>

#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "services/inference/router/telemetry.h"

// What a router makes of the answers of several replicas to one request.
namespace palimpsest::inference {

// Codes as they stand for the router. A replica that cancels what nobody here has cancelled is at
// its end, so `by_caller` tells the two kinds of CANCELLED apart.
bool IsLoss(const grpc::Status& status, bool by_caller);  // another replica may do it
bool IsFull(const grpc::Status& status);
AskOutcome OutcomeOf(const grpc::Status& status, bool by_caller);

struct Said {
  std::string replica;
  grpc::Status status;
};
// The end of a request that no replica took, all of which were lost or full; not empty. What a
// single one said goes on as it is, else RESOURCE_EXHAUSTED if any was full, naming them all.
grpc::Status VerdictOf(const std::vector<Said>& said);

// "<about>: <message>", with code and details kept.
grpc::Status About(const std::string& about, const grpc::Status& status);

// What a call that is made for another one has of it: the deadline (without one, `longest` from
// now) and the id of the trace, so that the replica's lines stand under it, too.
void PassOn(const grpc::ServerContextBase& from, absl::Duration longest, grpc::ClientContext& to);

}  // namespace palimpsest::inference
