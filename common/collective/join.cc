#include "common/collective/join.h"

#include "common/collective/background.h"
#include "common/collective/gloo.h"
#include "common/collective/meeting.h"
#include "common/collective/mesh.h"

namespace palimpsest {

absl::StatusOr<std::unique_ptr<Collective>> Join(const JoinOptions& options, Clock& clock) {
  ASSIGN_OR_RETURN(const std::string life, Meet({.folder = options.folder,
                                                 .rank = options.rank,
                                                 .size = options.size,
                                                 .patience = options.meeting,
                                                 .give_up = options.give_up},
                                                clock));
  ASSIGN_OR_RETURN(std::unique_ptr<Collective> ranks, options.tls.on()
                                                          ? ConnectMesh(options, life, clock)
                                                          : ConnectGloo(options, life, clock));
  RETURN_IF_ERROR(ranks->Barrier());
  return InBackground(std::move(ranks));
}

}  // namespace palimpsest
