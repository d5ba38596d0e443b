#include "tools/watch/page_client.h"

#include <httplib.h>

#include <nlohmann/json.hpp>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "common/base/clock.h"
#include "common/rpc/config.h"
#include "common/tls/section.h"
#include "tools/watch/told_status.h"

namespace palimpsest::tools {
namespace {

constexpr size_t kMaxAnswer = 16 << 20;

}  // namespace

struct PageClient::Impl {
  std::string host_port;
  std::unique_ptr<httplib::Client> clear;
  std::unique_ptr<httplib::SSLClient> secure;

  template <class Client>
  httplib::Result Get(Client& client, const std::string& path, absl::Duration patience,
                      std::string& body) {
    client.set_connection_timeout(absl::ToChronoMilliseconds(patience));
    client.set_read_timeout(absl::ToChronoMilliseconds(patience));
    return client.Get(path.c_str(), [&body](const char* data, size_t size) {
      body.append(data, size);
      return body.size() <= kMaxAnswer;
    });
  }
};

PageClient::PageClient(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
PageClient::~PageClient() = default;

absl::Status PageClient::CheckTls(const std::string& tls) {
  const absl::Status sound =
      Validate(TlsSection{.folder = tls}, Role::kOperator, SystemClock().Now());
  if (sound.ok()) return sound;
  return absl::Status(sound.code(), absl::StrFormat("--tls %s: %s", tls, sound.message()));
}

absl::StatusOr<std::unique_ptr<PageClient>> PageClient::Open(const std::string& host_port,
                                                             const std::string& tls) {
  ASSIGN_OR_RETURN(const HostPort at, ParseHostPort("HOST:PORT", host_port));
  auto impl = std::make_unique<Impl>();
  impl->host_port = host_port;
  if (tls.empty()) {
    impl->clear = std::make_unique<httplib::Client>(at.host, at.port);
  } else {
    const TlsSection section{.folder = tls};
    RETURN_IF_ERROR(CheckTls(tls));
    const std::string own = OwnFile(section, Role::kOperator);
    impl->secure = std::make_unique<httplib::SSLClient>(at.host, at.port, own, own);
    impl->secure->set_ca_cert_path(CaFile(section).c_str());
    impl->secure->enable_server_certificate_verification(true);
  }
  return std::unique_ptr<PageClient>(new PageClient(std::move(impl)));
}

absl::StatusOr<nlohmann::json> PageClient::Get(const std::string& path, absl::Duration patience) {
  std::string body;
  const httplib::Result result = impl_->secure != nullptr
                                     ? impl_->Get(*impl_->secure, path, patience, body)
                                     : impl_->Get(*impl_->clear, path, patience, body);
  if (body.size() > kMaxAnswer) {
    return absl::DataLossError(
        absl::StrFormat("%s%s: longer than %d bytes", impl_->host_port, path, kMaxAnswer));
  }
  if (!result) {
    return absl::UnavailableError(absl::StrFormat("%s does not answer: %s", impl_->host_port,
                                                  httplib::to_string(result.error())));
  }
  nlohmann::json answer = nlohmann::json::parse(body, nullptr, false);
  if (result->status != 200) {
    const bool told = answer.is_object() && answer["error"].is_string();
    if (told && answer["code"].is_string()) {
      return ToldStatus(absl::StrCat(answer["code"].get<std::string>(), ": ",
                                     answer["error"].get<std::string>()));
    }
    return absl::InvalidArgumentError(
        absl::StrFormat("%s%s: %d %s", impl_->host_port, path, result->status,
                        told ? answer["error"].get<std::string>() : ""));
  }
  if (!answer.is_object()) {
    return absl::DataLossError(absl::StrFormat("%s%s is no JSON object", impl_->host_port, path));
  }
  return answer;
}

}  // namespace palimpsest::tools
