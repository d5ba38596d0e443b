#pragma once

#include <string>

#include "common/base/status.h"
#include "tools/fsck/evidence.h"

namespace palimpsest::tools {

// All rows at one moment of the ledger's life; its writer may be alive, dead or gone. Nothing is
// changed but SQLite's own -shm and -wal beside the file. NOT_FOUND: no ledger is there.
// FAILED_PRECONDITION: one of another format. DATA_LOSS: it cannot be read.
absl::StatusOr<LedgerRows> ReadLedger(const std::string& path);

}  // namespace palimpsest::tools
