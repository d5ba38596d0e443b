#include "services/trainer/core/batch.h"

namespace palimpsest::trainer {

std::string_view Name(RejectReason reason) {
  switch (reason) {
    case RejectReason::kLog:
      return "log";
    case RejectReason::kDigest:
      return "digest";
    case RejectReason::kMalformed:
      return "malformed";
    case RejectReason::kVersion:
      return "version";
    case RejectReason::kStale:
      return "stale";
    case RejectReason::kTruncatedSampling:
      return "truncated_sampling";
    case RejectReason::kTooLong:
      return "too_long";
  }
  return "unknown";
}

}  // namespace palimpsest::trainer
