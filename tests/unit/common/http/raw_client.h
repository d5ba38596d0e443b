#pragma once

#include <cstdint>
#include <memory>
#include <string>

struct ssl_st;

namespace palimpsest {

// A client of loopback that does only what it is told.
class RawClient {
 public:
  explicit RawClient(int port);
  ~RawClient() { Close(); }
  RawClient(const RawClient&) = delete;
  RawClient& operator=(const RawClient&) = delete;

  // A handshake under the certificate in `pem`; what follows goes through it.
  bool Secure(const std::string& pem);
  // False: the other side has gone.
  bool Send(const std::string& bytes);
  // What is there or comes until the other side ends or breaks the connection.
  std::string ReadAll();
  // Has the other side ended or broken it, or does so in `milliseconds`?
  bool Ended(int milliseconds);
  void Close();

 private:
  int socket_;
  std::shared_ptr<ssl_st> session_;  // null in clear text
};

int OpenDescriptors();    // of this process
int64_t ResidentBytes();  // likewise

}  // namespace palimpsest
