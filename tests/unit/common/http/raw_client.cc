#include "tests/unit/common/http/raw_client.h"

#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <openssl/ssl.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <utility>

namespace palimpsest {

RawClient::RawClient(int port) : socket_(::socket(AF_INET, SOCK_STREAM, 0)) {
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(port));
  to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
  EXPECT_EQ(connect(socket_, reinterpret_cast<sockaddr*>(&to), sizeof(to)), 0);
}

void RawClient::Close() {
  session_.reset();
  if (socket_ >= 0) close(std::exchange(socket_, -1));
}

bool RawClient::Secure(const std::string& pem) {
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_client_method()),
                                                             SSL_CTX_free);
  SSL_CTX_use_certificate_chain_file(context.get(), pem.c_str());
  SSL_CTX_use_PrivateKey_file(context.get(), pem.c_str(), SSL_FILETYPE_PEM);
  session_ = std::shared_ptr<SSL>(SSL_new(context.get()), SSL_free);
  SSL_set_fd(session_.get(), socket_);
  return SSL_connect(session_.get()) == 1;
}

bool RawClient::Send(const std::string& bytes) {
  if (session_ == nullptr) {
    return send(socket_, bytes.data(), bytes.size(), MSG_NOSIGNAL) ==
           static_cast<ssize_t>(bytes.size());
  }
  return SSL_write(session_.get(), bytes.data(), static_cast<int>(bytes.size())) > 0;
}

std::string RawClient::ReadAll() {
  std::string all;
  char part[4096];
  for (;;) {
    const ssize_t got = session_ == nullptr ? recv(socket_, part, sizeof(part), 0)
                                            : SSL_read(session_.get(), part, sizeof(part));
    if (got <= 0) return all;
    all.append(part, static_cast<size_t>(got));
  }
}

bool RawClient::Ended(int milliseconds) {
  char byte = 0;
  do {
    pollfd watched{.fd = socket_, .events = POLLIN, .revents = 0};
    if (poll(&watched, 1, milliseconds) <= 0) return false;
  } while (recv(socket_, &byte, 1, 0) > 0);
  return true;
}

int OpenDescriptors() {
  return static_cast<int>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

int64_t ResidentBytes() {
  int64_t size = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> size >> resident;
  return resident * sysconf(_SC_PAGESIZE);
}

}  // namespace palimpsest
