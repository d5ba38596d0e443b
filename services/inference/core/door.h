#pragma once

#include <string>

namespace palimpsest::inference {

// Another way in beside gRPC. Its end finishes what is being answered.
class Door {
 public:
  virtual ~Door() = default;
  virtual std::string address() const = 0;  // host:port for others
};

}  // namespace palimpsest::inference
