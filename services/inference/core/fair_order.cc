#include "services/inference/core/fair_order.h"

#include <algorithm>

namespace palimpsest::inference {

double FairOrder::Tag(const std::string& client, double cost) {
  double& finished = finished_[client];
  const double start = std::max(now_, finished);
  finished = start + cost;
  return start;
}

void FairOrder::Withdraw(const std::string& client, double cost) {
  const auto it = finished_.find(client);
  if (it == finished_.end()) return;
  it->second -= cost;
  if (it->second <= now_) finished_.erase(it);
}

void FairOrder::Served(double tag) {
  now_ = std::max(now_, tag);
  std::erase_if(finished_, [&](const auto& f) { return f.second <= now_; });
}

}  // namespace palimpsest::inference
