#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/node.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

std::string ErrorOf(const std::string& text) {
  const absl::StatusOr<Node> node = ParseYaml(text, "run.yaml");
  return node.ok() ? "no error" : std::string(node.status().message());
}

TEST(ParseYamlTest, EmptyTextIsAnEmptyMap) {
  const absl::StatusOr<Node> node = ParseYaml("# only a comment\n", "run.yaml");
  ASSERT_TRUE(node.ok()) << node.status();
  EXPECT_EQ(node->kind, Node::Kind::kMap);
  EXPECT_TRUE(node->items.empty());
}

TEST(ParseYamlTest, ValuesKnowTheirLine) {
  const absl::StatusOr<Node> node = ParseYaml("a: 1\nb:\n  c: [x, \"y\"]\n", "run.yaml");
  ASSERT_TRUE(node.ok()) << node.status();
  const Node* list = node->Find("b")->Find("c");
  ASSERT_NE(list, nullptr);
  EXPECT_EQ(list->where, "run.yaml:3");
  EXPECT_FALSE(list->items[0].quoted);
  EXPECT_TRUE(list->items[1].quoted);
}

TEST(ParseYamlTest, DuplicateKeyIsNamedWithItsLineAndPath) {
  EXPECT_EQ(ErrorOf("a:\n  b: 1\n  c: 2\n  b: 3\n"), "run.yaml:4: a.b: this key is written twice");
}

TEST(ParseYamlTest, SyntaxErrorsNameTheLine) {
  EXPECT_THAT(ErrorOf("a: 1\nb: [1, 2\n"), HasSubstr("run.yaml:"));
}

TEST(ParseYamlTest, RefusesWhatIsNoMapOfSections) {
  EXPECT_THAT(ErrorOf("- 1\n"), HasSubstr("map of sections"));
  EXPECT_THAT(ErrorOf("a: 1\n---\nb: 2\n"), HasSubstr("several YAML documents"));
  // A document that no token begins: yaml-cpp finds empty ones here without an end.
  EXPECT_THAT(ErrorOf("a: 1\n...\n, b"), HasSubstr("several YAML documents"));
  EXPECT_THAT(ErrorOf("# a\n, b"), HasSubstr("several YAML documents"));
  EXPECT_THAT(ErrorOf("a: !!int 5\n"), HasSubstr("tag"));
  EXPECT_THAT(ErrorOf("[1, 2]: 5\n"), HasSubstr("key"));
}

TEST(ParseYamlTest, BombsOfAliasesAreRefused) {
  std::string text = "x0: &a0 [1, 1, 1, 1, 1, 1, 1, 1, 1, 1]\n";
  for (int i = 1; i < 8; ++i) {
    const std::string before = "*a" + std::to_string(i - 1);
    text += "x" + std::to_string(i) + ": &a" + std::to_string(i) + " [";
    for (int k = 0; k < 10; ++k) text += (k ? ", " : "") + before;
    text += "]\n";
  }
  EXPECT_THAT(ErrorOf(text), HasSubstr("too many values"));
}

TEST(ParseYamlTest, AListThatHoldsItselfIsRefused) {
  EXPECT_THAT(ErrorOf("a: &x [*x]\n"), HasSubstr("run.yaml:1"));
}

TEST(ApplyOverrideTest, ReplacesAddsAndNamesItself) {
  absl::StatusOr<Node> node = ParseYaml("a:\n  b: 1\n", "run.yaml");
  ASSERT_TRUE(ApplyOverride(*node, "a.b=2").ok());
  ASSERT_TRUE(ApplyOverride(*node, "x.y.z=[1, 2]").ok());
  EXPECT_EQ(node->Find("a")->Find("b")->text, "2");
  EXPECT_EQ(node->Find("a")->Find("b")->where, "--set a.b=2");
  EXPECT_EQ(node->Find("x")->Find("y")->Find("z")->items.size(), 2u);
}

TEST(ApplyOverrideTest, ValueMayHoldAnEqualsSign) {
  absl::StatusOr<Node> node = ParseYaml("", "run.yaml");
  ASSERT_TRUE(ApplyOverride(*node, "a.b=c=d").ok());
  EXPECT_EQ(node->Find("a")->Find("b")->text, "c=d");
}

TEST(ApplyOverrideTest, RefusesWhatItCannotPlace) {
  absl::StatusOr<Node> node = ParseYaml("a: 1\n", "run.yaml");
  EXPECT_THAT(ApplyOverride(*node, "a.b=2").message(), HasSubstr("a: is not a section"));
  EXPECT_THAT(ApplyOverride(*node, "a").message(), HasSubstr("section.key=value"));
  EXPECT_THAT(ApplyOverride(*node, "a..b=1").message(), HasSubstr("not a section"));
  EXPECT_THAT(ApplyOverride(*node, "x..b=1").message(), HasSubstr("empty part"));
}

}  // namespace
}  // namespace palimpsest
