#include "common/http/places.h"

#include <sys/socket.h>

#include <algorithm>

namespace palimpsest {

bool Places::Take(int socket, absl::Time now, absl::Time peace_ends) {
  const absl::MutexLock lock(&mu_);
  if (peace_ends_.size() >= most_) {
    const auto first =
        std::min_element(peace_ends_.begin(), peace_ends_.end(),
                         [](const auto& a, const auto& b) { return a.second < b.second; });
    if (first == peace_ends_.end() || first->second > now) return false;
    shutdown(first->first, SHUT_RDWR);  // its thread, which waits for it, wakes up and closes it
    peace_ends_.erase(first);
  }
  peace_ends_[socket] = peace_ends;
  return true;
}

bool Places::Keep(int socket, absl::Time peace_ends) {
  const absl::MutexLock lock(&mu_);
  const auto place = peace_ends_.find(socket);
  if (place == peace_ends_.end()) return false;
  place->second = peace_ends;
  return true;
}

void Places::Leave(int socket) {
  const absl::MutexLock lock(&mu_);
  peace_ends_.erase(socket);
}

}  // namespace palimpsest
