#include "absl/strings/str_format.h"
#include "common/tls/identity.h"
#include "tools/doctor/probe.h"

namespace palimpsest::tools {
namespace {

constexpr absl::Duration kSoon = absl::Hours(24 * 7);
constexpr Role kOfARun[] = {Role::kInference, Role::kTrainer, Role::kOrchestrator, Role::kEnv,
                            Role::kOperator};

// The first of them that does not hold at that time.
absl::Status Check(const TlsSection& tls, absl::Time when) {
  for (const Role role : kOfARun) RETURN_IF_ERROR(ReadIdentity(tls, role, when).status());
  return absl::OkStatus();
}

}  // namespace

std::vector<Finding> ProbeCertificates(const TlsSection& tls, absl::Time now) {
  Finding finding{"certificates", Verdict::kPass, "none: calls are in clear text"};
  if (!tls.on()) return {finding};
  finding.saw = "those of all roles are valid for a week or longer";
  const absl::Status in_a_week = Check(tls, now + kSoon), today = Check(tls, now);
  if (in_a_week.ok() && today.ok()) return {finding};
  finding.verdict = today.ok() ? Verdict::kWarn : Verdict::kFail;
  finding.saw =
      today.ok() ? "in a week: " + std::string(in_a_week.message()) : std::string(today.message());
  finding.todo = "deploy/tls/make-certs.sh RUN --renew all HOST..";
  return {finding};
}

}  // namespace palimpsest::tools
