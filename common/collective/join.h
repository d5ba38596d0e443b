#pragma once

#include <functional>
#include <memory>
#include <string>

#include "absl/time/time.h"
#include "common/base/clock.h"
#include "common/collective/collective.h"
#include "common/tls/section.h"

namespace palimpsest {

struct JoinOptions {
  std::string folder;  // that all ranks see; see meeting.h
  int rank = 0;
  int size = 2;
  std::string host = "127.0.0.1";  // of this rank, by which the others reach it
  // On: the ranks speak by the mesh of mesh.h, as trainers; else by Gloo, unencrypted.
  TlsSection tls;
  absl::Duration meeting = absl::Minutes(10);   // until all ranks have come
  absl::Duration timeout = absl::Minutes(10);   // of connecting and of each call
  absl::Duration roll_call = absl::Seconds(5);  // for the answers that tell who is to blame
  std::function<bool()> give_up = [] { return false; };  // asked while ranks are waited for
};

// Joins the ranks over TCP; returns when all are connected. Besides the errors of Meet: UNAVAILABLE
// when they cannot connect, ABORTED when one was lost meanwhile, INVALID_ARGUMENT as ReadIdentity.
// SIGPIPE is to be ignored in the process: a peer may go at any time.
absl::StatusOr<std::unique_ptr<Collective>> Join(const JoinOptions& options, Clock& clock);

}  // namespace palimpsest
