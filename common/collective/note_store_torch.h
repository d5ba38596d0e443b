#pragma once

#include <string>
#include <torch/csrc/distributed/c10d/Store.hpp>
#include <vector>

namespace palimpsest {

// The store by which Gloo exchanges addresses while it connects: a file per key in a folder that
// all ranks see. No lock, no server, so that nobody who is dead or stopped holds others up. Keys
// are set once. Counters, which Gloo does not ask for, are refused. Throws c10::Error.
class NoteStore final : public c10d::Store {
 public:
  explicit NoteStore(std::string folder) : folder_(std::move(folder)) {}

  using c10d::Store::set;
  c10::intrusive_ptr<c10d::Store> clone() override {
    return c10::make_intrusive<NoteStore>(folder_);
  }
  void set(const std::string& key, const std::vector<uint8_t>& value) override;
  std::vector<uint8_t> get(const std::string& key) override;  // waits for it
  int64_t add(const std::string& key, int64_t value) override;
  bool deleteKey(const std::string& key) override;
  bool check(const std::vector<std::string>& keys) override;
  int64_t getNumKeys() override;
  void wait(const std::vector<std::string>& keys) override { wait(keys, timeout_); }
  void wait(const std::vector<std::string>& keys,
            const std::chrono::milliseconds& timeout) override;

 private:
  std::string PathOf(const std::string& key) const;
  const std::string folder_;
};

}  // namespace palimpsest
