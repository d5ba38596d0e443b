#include "common/config/run_sections.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/flags.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

struct Both {
  RunSection run;
  ModelSection model;
};
void Bind(Binder& b, Both& c) {
  b.Section("run", c.run);
  b.Section("model", c.model);
}

TEST(RunSectionsTest, WhatIsPrintedReadsBackToTheSame) {
  Both config{.run = {.name = "quick", .folder = "runs/quick", .seed = 7},
              .model = {.init = {.layers = 2, .special_tokens = {"<a>", "<b>"}}}};
  Both read;
  Binder binder;
  Bind(binder, read);
  const absl::StatusOr<Node> node = ParseYaml(PrintConfig(config), "printed");
  ASSERT_TRUE(node.ok()) << node.status();
  ASSERT_TRUE(binder.Read(*node, "").ok());
  EXPECT_EQ(read.run, config.run);
  EXPECT_EQ(read.model, config.model);
}

TEST(RunSectionsTest, AModelThatCannotBeMadeIsRefusedByItsField) {
  ModelSection model;
  EXPECT_TRUE(Validate(model).ok());
  model.init.kv_heads = 3;
  EXPECT_THAT(std::string(Validate(model).message()), HasSubstr("kv_heads=3"));
  model.folder = "somewhere";  // then init does not matter
  EXPECT_TRUE(Validate(model).ok());
}

}  // namespace
}  // namespace palimpsest
