#include "tools/watch/told_status.h"

#include <gtest/gtest.h>

namespace palimpsest::tools {
namespace {

TEST(ToldStatusTest, WhatADaemonDiedOfKeepsItsCodeAndItsWordsAlone) {
  EXPECT_EQ(StatusOfLine(R"({"time":"t","daemon":"p","status":"DATA_LOSS: ledger: no database"})"),
            absl::DataLossError("ledger: no database"));
  EXPECT_EQ(StatusOfLine(R"({"status":"NOT_FOUND: there is no ledger"})"),
            absl::NotFoundError("there is no ledger"));
}

TEST(ToldStatusTest, AnotherLineIsToldAsItStands) {
  for (const char* line : {"no JSON", "[1]", R"({"msg":"x"})", R"({"status":7})"}) {
    EXPECT_EQ(StatusOfLine(line), absl::UnknownError(line));
  }
  EXPECT_EQ(StatusOfLine(R"({"status":"odd: words"})"), absl::UnknownError("odd: words"));
}

}  // namespace
}  // namespace palimpsest::tools
