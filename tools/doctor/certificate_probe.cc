#include "absl/strings/str_format.h"
#include "common/tls/identity.h"
#include "tools/doctor/probe.h"

namespace palimpsest::tools {
namespace {

constexpr absl::Duration kSoon = absl::Hours(24 * 7);
// Of every run.
constexpr Role kOfARun[] = {Role::kInference, Role::kTrainer, Role::kOrchestrator, Role::kEnv,
                            Role::kOperator};

// The first of them that does not hold at that time.
absl::Status Check(const RunNeeds& needs, absl::Time when) {
  for (const Role role : kOfARun) RETURN_IF_ERROR(ReadIdentity(needs.tls, role, when).status());
  if (!needs.router) return absl::OkStatus();
  return ReadIdentity(needs.tls, Role::kRouter, when).status();
}

}  // namespace

std::vector<Finding> ProbeCertificates(const RunNeeds& needs, absl::Time now) {
  Finding finding{"certificates", Verdict::kPass, "none: calls are in clear text"};
  if (!needs.tls.on()) return {finding};
  finding.saw = "those of all roles are valid for a week or longer";
  const absl::Status in_a_week = Check(needs, now + kSoon), today = Check(needs, now);
  if (in_a_week.ok() && today.ok()) return {finding};
  finding.verdict = today.ok() ? Verdict::kWarn : Verdict::kFail;
  finding.saw =
      today.ok() ? "in a week: " + std::string(in_a_week.message()) : std::string(today.message());
  finding.todo = "deploy/tls/make-certs.sh RUN --renew all HOST..";
  return {finding};
}

}  // namespace palimpsest::tools
