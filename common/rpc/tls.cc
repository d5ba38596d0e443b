#include "common/rpc/tls.h"

#include <grpcpp/security/auth_context.h>
#include <grpcpp/security/auth_metadata_processor.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/security/server_credentials.h>
#include <grpcpp/security/tls_certificate_provider.h>
#include <grpcpp/security/tls_certificate_verifier.h>
#include <grpcpp/security/tls_credentials_options.h>

#include <string>
#include <vector>

#include "absl/strings/str_format.h"
#include "common/base/status.h"
#include "common/rpc/status.h"
#include "common/tls/access.h"
#include "common/tls/https.h"

namespace palimpsest {
namespace {

using grpc::experimental::TlsCustomVerificationCheckRequest;

std::vector<std::string> Texts(const std::vector<grpc::string_ref>& values) {
  std::vector<std::string> texts;
  for (const grpc::string_ref& value : values) texts.emplace_back(value.data(), value.size());
  return texts;
}

// gRPC asks it about each call before the call reaches an interceptor or a handler.
class AccessCheck final : public grpc::AuthMetadataProcessor {
 public:
  explicit AccessCheck(Metrics& metrics)
      : denied_(metrics.AddCounter(
            {"rpc_server_denied_total", "Calls refused because of the caller's role.", {"role"}})) {
    denied_.Begin({"none"});
    for (const Role role : kAllRoles) denied_.Begin({std::string(RoleName(role))});
  }

  bool IsBlocking() const override { return false; }

  grpc::Status Process(const InputMetadata& metadata, grpc::AuthContext* peer, OutputMetadata*,
                       OutputMetadata*) override {
    const auto path = metadata.find(":path");
    const std::string method =
        path == metadata.end() ? "" : std::string(path->second.data(), path->second.size());
    const absl::StatusOr<Role> role =
        RoleOfUris(Texts(peer->FindPropertyValues(GRPC_PEER_URI_PROPERTY_NAME)));
    if (!role.ok()) {
      denied_.With({"none"}).Add();
      return ToGrpc(absl::PermissionDeniedError(std::string(role.status().message())));
    }
    const absl::Status may = CheckAccess(*role, method);
    if (!may.ok()) denied_.With({std::string(RoleName(*role))}).Add();
    return ToGrpc(may);
  }

 private:
  MetricFamily<Counter> denied_;
};

// In place of the host's name. The chain has been checked before.
class IsOfRole final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  explicit IsOfRole(Role role) : role_(role) {}

  bool Verify(TlsCustomVerificationCheckRequest* peer, std::function<void(grpc::Status)>,
              grpc::Status* status) override {
    *status = ToGrpc(Judge(RoleOfUris(Texts(peer->uri_names()))));
    return true;
  }
  void Cancel(TlsCustomVerificationCheckRequest*) override {}

 private:
  absl::Status Judge(const absl::StatusOr<Role>& named) const {
    RETURN_IF_ERROR(named.status());
    if (*named == role_) return absl::OkStatus();
    if (*named == Role::kRouter && role_ == Role::kInference) return absl::OkStatus();
    return absl::UnauthenticatedError(
        absl::StrFormat("the server shows the role %s, not %s", RoleName(*named), RoleName(role_)));
  }

  const Role role_;
};

}  // namespace

absl::StatusOr<Tls> Tls::Open(const TlsSection& c, Role own, Clock& clock) {
  Tls tls;
  RETURN_IF_ERROR(Validate(c, own, clock.Now()));
  if (!c.on()) return tls;
  ASSIGN_OR_RETURN(tls.https_, Https::Open(c, own, clock));
  // Key and certificate stand in one file, so that both are replaced at once.
  const std::string file = OwnFile(c, own);
  tls.provider_ = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      file, file, CaFile(c), static_cast<unsigned>(absl::ToInt64Seconds(c.reload)));
  return tls;
}

std::shared_ptr<grpc::ServerCredentials> Tls::Server(Metrics& metrics) const {
  if (!on()) return grpc::InsecureServerCredentials();
  grpc::experimental::TlsServerCredentialsOptions options(provider_);
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  auto credentials = grpc::experimental::TlsServerCredentials(options);
  credentials->SetAuthMetadataProcessor(std::make_shared<AccessCheck>(metrics));
  return credentials;
}

std::shared_ptr<grpc::ChannelCredentials> Tls::Peer(Role peer) const {
  if (!on()) return grpc::InsecureChannelCredentials();
  grpc::experimental::TlsChannelCredentialsOptions options;
  options.set_certificate_provider(provider_);
  options.watch_root_certs();
  options.watch_identity_key_cert_pairs();
  options.set_certificate_verifier(
      grpc::experimental::ExternalCertificateVerifier::Create<IsOfRole>(peer));
  options.set_check_call_host(false);
  return grpc::experimental::TlsCredentials(options);
}

}  // namespace palimpsest
