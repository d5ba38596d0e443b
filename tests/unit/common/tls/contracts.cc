#include "tests/unit/common/tls/contracts.h"

#include <google/protobuf/descriptor.pb.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>

namespace palimpsest {

std::vector<std::string> MethodsOfTheContracts() {
  const std::string out = ::testing::TempDir() + "contracts-" + std::to_string(getpid());
  const std::string command =
      "protoc -Iprotos --descriptor_set_out=" + out + " $(find protos -name '*.proto')";
  EXPECT_EQ(std::system(command.c_str()), 0) << command;
  google::protobuf::FileDescriptorSet files;
  std::ifstream in(out, std::ios::binary);
  EXPECT_TRUE(files.ParseFromIstream(&in)) << out;
  std::remove(out.c_str());
  std::vector<std::string> methods;
  for (const auto& file : files.file()) {
    for (const auto& service : file.service()) {
      for (const auto& method : service.method()) {
        methods.push_back("/" + file.package() + "." + service.name() + "/" + method.name());
      }
    }
  }
  return methods;
}

}  // namespace palimpsest
