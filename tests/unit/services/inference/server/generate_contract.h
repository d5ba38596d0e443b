#pragma once

#include "tests/unit/services/inference/server/server_fixture.h"

namespace palimpsest::inference {

// Something between the clients and the server, and where it listens.
struct Front {
  std::shared_ptr<void> what;
  std::string address;
};
using FrontMaker = Front (*)(const std::string& server);

// What Generate promises, whether one speaks to the replica or to something before it. Null:
// nothing is between.
class GenerateContract : public ServerTest, public ::testing::WithParamInterface<FrontMaker> {
 protected:
  std::string FrontOf(const std::string& server) override {
    if (GetParam() == nullptr) return server;
    front_ = GetParam()(server);
    return front_.address;
  }
  void TearDown() override {
    ServerTest::TearDown();
    stub_.reset();
    front_.what.reset();
  }

 private:
  Front front_;
};

}  // namespace palimpsest::inference
