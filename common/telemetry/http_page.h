#pragma once

#include <functional>
#include <map>
#include <string>

namespace palimpsest {

// One GET. `path` begins with '/' and is decoded; of a parameter that is given twice the last one
// counts.
struct HttpQuestion {
  std::string path;
  std::map<std::string, std::string> parameters;
};

struct HttpAnswer {
  int status = 200;
  std::string type = "text/plain; charset=utf-8";
  std::string body;
};

// Called on a worker thread of the server, several at once.
using HttpPage = std::function<HttpAnswer(const HttpQuestion&)>;

}  // namespace palimpsest
