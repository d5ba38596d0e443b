#pragma once

#include <algorithm>
#include <cstdint>
#include <map>
#include <string>

namespace palimpsest::inference {

// In which order requests of several clients are served: start-time fair queueing (Goyal, Vin and
// Cheng, SIGCOMM 1996). Each request gets a start tag, the lowest goes first; a client that asks
// for much moves its own tags ahead and nobody else's, and one that was silent earns no credit by
// it. Tags are in tokens. Owner: whoever orders the queue.
class FairOrder {
 public:
  // The tag of a client's next request, of `cost` tokens (> 0).
  double Tag(const std::string& client, double cost);
  // The request of this tag is served now.
  void Served(double tag);
  // A request that was never served leaves: it costs its client nothing.
  void Withdraw(const std::string& client, double cost);
  // The tag of a waiting request after one of the same client, tagged before it, has left.
  double Advanced(double tag, double cost) const { return std::max(now_, tag - cost); }

 private:
  double now_ = 0;                          // tag of the latest that was served
  std::map<std::string, double> finished_;  // by client: where its last request ends, if after now_
};

}  // namespace palimpsest::inference
