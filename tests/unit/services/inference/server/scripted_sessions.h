#pragma once

#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/synchronization/mutex.h"
#include "services/inference/core/sessions.h"

namespace palimpsest::inference {

// Sessions of a number of tokens and no more: they are made, copied, listed and deleted. Any
// thread.
class ScriptedSessions final : public Sessions {
 public:
  explicit ScriptedSessions(std::string prefix) : prefix_(std::move(prefix)) {}

  absl::StatusOr<SessionInfo> Create(SessionSpec spec) override {
    const absl::MutexLock lock(&mu_);
    for (const auto& [id, made] : open_) {
      if (made.request_id == spec.request_id) return Info(id);
    }
    return Open(std::move(spec));
  }
  absl::StatusOr<std::vector<SessionInfo>> Fork(const std::string&, const std::string& id,
                                                const std::vector<uint64_t>& seeds) override {
    const absl::MutexLock lock(&mu_);
    if (!open_.contains(id)) return absl::NotFoundError("session_id=" + id);
    std::vector<SessionInfo> forks;
    for (size_t i = 0; i < seeds.size(); ++i) forks.push_back(Open({.client = open_[id].client}));
    return forks;
  }
  std::vector<SessionInfo> List(const std::string& client) override {
    const absl::MutexLock lock(&mu_);
    std::vector<SessionInfo> all;
    for (const auto& [id, spec] : open_) {
      if (client.empty() || client == spec.client) all.push_back(Info(id));
    }
    return all;
  }
  bool Delete(const std::string& id) override {
    const absl::MutexLock lock(&mu_);
    return open_.erase(id) > 0;
  }

 private:
  SessionInfo Info(const std::string& id) {
    const SessionSpec& spec = open_[id];
    const auto tokens =
        static_cast<int32_t>(spec.begun ? spec.begun->tokens.size() : spec.prompt.size());
    return {.id = id, .client = spec.client, .tokens = tokens};
  }
  SessionInfo Open(SessionSpec spec) {
    const std::string id = prefix_ + std::to_string(made_++);
    open_[id] = std::move(spec);
    return Info(id);
  }

  const std::string prefix_;
  absl::Mutex mu_;
  int made_ = 0;
  std::map<std::string, SessionSpec> open_;  // by id
};

}  // namespace palimpsest::inference
