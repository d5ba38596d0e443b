#pragma once

#include <functional>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace palimpsest {

struct HttpRequest {
  std::string path = {};                               // begins with '/' and is decoded
  std::map<std::string, std::string> parameters = {};  // of one that is given twice: the last
  std::string body = {};
  std::function<bool()> alive = {};  // is the client still there? False is final
};

struct HttpAnswer {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body = {};
  bool try_again = false;  // says Retry-After
  std::vector<std::pair<std::string, std::string>> headers = {};
  // If set, sent instead of `body` piece by piece; called until it gives nothing or the client is
  // gone. An empty piece: nothing yet, asked again at once, so it must have waited.
  std::function<std::optional<std::string>()> next_piece = {};
};

// Called by many threads at once.
using HttpHandler = std::function<HttpAnswer(const HttpRequest&)>;

// What clients are told who reach no handler: `why` is empty, or says more than the status does.
using HttpRefusal = std::function<HttpAnswer(int status, const std::string& why)>;

struct HttpRoute {
  bool post = false;    // else GET
  std::string pattern;  // a regular expression for the whole path; the first that fits counts
  HttpHandler handler;
};

}  // namespace palimpsest
