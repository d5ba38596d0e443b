#include "common/tls/access.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <map>
#include <set>

#include "tests/unit/common/tls/contracts.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::UnorderedElementsAreArray;

// What the issue and the arrows of the design say, written down apart from the table: who may call
// what of a service. "*" is all of it.
using Wanted = std::map<std::string, std::set<std::string>>;
const std::set<std::string> kUsesOfInference = {"GetServerInfo", "Generate",       "Score",
                                                "Tokenize",      "Detokenize",     "CreateSession",
                                                "StepSession",   "CompactSession", "ForkSession",
                                                "ListSessions",  "DeleteSession"};
const std::map<Role, Wanted> kWanted = {
    {Role::kInference, {}},
    {Role::kRouter, {{"InferenceService", {"*"}}}},
    {Role::kTrainer, {}},
    {Role::kEnv, {}},
    {Role::kMetrics, {}},
    {Role::kOrchestrator,
     {{"InferenceService", {"*"}}, {"TrainerService", {"*"}}, {"EnvironmentService", {"*"}}}},
    {Role::kClient, {{"InferenceService", kUsesOfInference}, {"EnvironmentService", {"*"}}}},
    {Role::kOperator,
     {{"InferenceService", kUsesOfInference},
      {"EnvironmentService", {"*"}},
      {"TrainerService", {"GetServerInfo", "GetStatus"}},
      {"OrchestratorService", {"*"}}}},
};

bool IsWanted(Role role, const std::string& method) {
  const size_t dot = method.rfind('.'), slash = method.rfind('/');
  const Wanted& wanted = kWanted.at(role);
  const auto service = wanted.find(method.substr(dot + 1, slash - dot - 1));
  if (service == wanted.end()) return false;
  return service->second.count("*") > 0 || service->second.count(method.substr(slash + 1)) > 0;
}

TEST(AccessTest, EveryRoleAndEveryRpcOfTheContracts) {
  const std::vector<std::string> methods = MethodsOfTheContracts();
  EXPECT_GE(methods.size(), 38u);
  for (const Role role : kAllRoles) {
    for (const std::string& method : methods) {
      EXPECT_EQ(MayCall(role, method), IsWanted(role, method)) << RoleName(role) << method;
    }
  }
}

// An RPC that somebody adds must be thought about, and one that is removed leaves no row behind.
TEST(AccessTest, TheRowsAreTheRpcsOfTheContracts) {
  std::vector<std::string> rows;
  for (const std::string_view row : MethodsWithARow()) {
    if (row.starts_with("/palimpsest.")) rows.emplace_back(row);
  }
  EXPECT_THAT(rows, UnorderedElementsAreArray(MethodsOfTheContracts()));
}

TEST(AccessTest, WhatHasNoRowIsForNobody) {
  for (const Role role : kAllRoles) {
    for (const char* method :
         {"", "/", "/palimpsest.v1.TrainerService/", "/palimpsest.v1.TrainerService/Steal",
          "/palimpsest.v1.TrainerService/TrainBatch/", "//palimpsest.v1.TrainerService/TrainBatch",
          "/palimpsest.v2.TrainerService/TrainBatch", "/grpc.health.v1.Healthy/Check", "/v1/"}) {
      EXPECT_FALSE(MayCall(role, method)) << RoleName(role) << " " << method;
    }
  }
}

TEST(AccessTest, HealthAndReflectionAreForEveryRoleAndPagesForThoseWhoLook) {
  const std::set<Role> lookers = {Role::kMetrics, Role::kOperator};
  const std::set<Role> users = {Role::kClient, Role::kOperator};
  for (const Role role : kAllRoles) {
    EXPECT_TRUE(MayCall(role, "/grpc.health.v1.Health/Check"));
    EXPECT_TRUE(MayCall(role, "/grpc.health.v1.Health/Watch"));
    EXPECT_TRUE(MayCall(role, "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"));
    EXPECT_EQ(MayCall(role, "/metrics"), lookers.count(role) > 0);
    EXPECT_EQ(MayCall(role, "/healthz"), lookers.count(role) > 0);
    EXPECT_EQ(MayCall(role, "/v1"), users.count(role) > 0);
    EXPECT_EQ(MayCall(role, "/page"), role == Role::kOperator);
  }
}

TEST(AccessTest, ARefusalNamesRoleAndMethod) {
  const absl::Status refused = CheckAccess(Role::kEnv, "/palimpsest.v1.TrainerService/Pause");
  EXPECT_TRUE(absl::IsPermissionDenied(refused));
  EXPECT_THAT(std::string(refused.message()),
              HasSubstr("role env may not call /palimpsest.v1.TrainerService/Pause"));
}

}  // namespace
}  // namespace palimpsest
