#include "services/env/core/arithmetic.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <limits>
#include <string>

namespace palimpsest::env {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

std::string Failure(std::string_view text) {
  const auto result = EvaluateExpression(text);
  return result.ok() ? "evaluated" : std::string(result.status().message());
}

void ExpectValue(std::string_view text, int64_t numerator, int64_t denominator) {
  const auto result = EvaluateExpression(text);
  ASSERT_TRUE(result.ok()) << text << ": " << result.status();
  ASSERT_TRUE(result->value) << text;
  EXPECT_TRUE(result->value->numerator == numerator) << text;
  EXPECT_TRUE(result->value->denominator == denominator) << text;
}

TEST(EvaluateExpressionTest, ValuesAreExactFractionsInLowestTerms) {
  ExpectValue("1/3*3", 1, 1);
  ExpectValue("8/(3-8/3)", 24, 1);
  ExpectValue("2/4", 1, 2);
  ExpectValue("1/-2", -1, 2);
  ExpectValue("0/7", 0, 1);
  ExpectValue("1/10+2/10-3/10", 0, 1);
}

TEST(EvaluateExpressionTest, OperatorsBindAndAssociateAsInSchool) {
  ExpectValue("2+3*4", 14, 1);
  ExpectValue("20-5-4", 11, 1);
  ExpectValue("20/5/2", 2, 1);
  ExpectValue("20/5*2", 8, 1);
  ExpectValue("2*-3", -6, 1);
  ExpectValue("-2-+-3", 1, 1);
  ExpectValue("(2+3)*4", 20, 1);
}

TEST(EvaluateExpressionTest, LiteralsAreListedAsWritten) {
  const auto result = EvaluateExpression("7*(100-7) / 12");
  ASSERT_TRUE(result.ok());
  EXPECT_THAT(result->literals, ElementsAre(7, 100, 7, 12));
}

TEST(EvaluateExpressionTest, WhatIsWrongIsNamedWithItsByte) {
  EXPECT_EQ(Failure("1+"), "expected a number at byte 2");
  EXPECT_EQ(Failure("(1+2"), "expected ')' at byte 4");
  EXPECT_EQ(Failure("1+2)"), "expected an operator or the end at byte 3");
  EXPECT_EQ(Failure("1 2"), "expected an operator or the end at byte 2");
  EXPECT_EQ(Failure("1/(2-2)"), "division by zero at byte 1");
  EXPECT_EQ(Failure("2**3"), "expected a number at byte 2");
  EXPECT_EQ(Failure("2.5"), "expected an operator or the end at byte 1");
  EXPECT_EQ(Failure("007"), "leading zero at byte 0");
  EXPECT_EQ(Failure(""), "expected a number at byte 0");
  EXPECT_EQ(Failure(std::string_view("1\0+2", 4)), "expected an operator or the end at byte 1");
  EXPECT_EQ(Failure("\xff\xfe"), "expected a number at byte 0");
}

TEST(EvaluateExpressionTest, LineBreaksCountAsBlanksInsideParenthesesOnly) {
  ExpectValue("(1+\n2)", 3, 1);
  EXPECT_EQ(Failure("1+\n2"), "expected a number at byte 2");
}

TEST(EvaluateExpressionTest, DepthAndLengthAreBounded) {
  EXPECT_THAT(Failure(std::string(65, '(') + "1" + std::string(65, ')')), HasSubstr("too deep"));
  EXPECT_THAT(Failure(std::string(65, '-') + "1"), HasSubstr("too deep"));
  EXPECT_EQ(Failure(std::string(64, '(') + "1" + std::string(64, ')')), "evaluated");
  EXPECT_THAT(Failure(std::string(1 << 20, '(')), HasSubstr("bytes are more than"));
}

TEST(EvaluateExpressionTest, OverflowLosesTheValueButKeepsTheLiterals) {
  std::string text = "9000000000000000000";
  for (int i = 0; i < 3; ++i) text += "*9000000000000000000";
  const auto product = EvaluateExpression(text);
  ASSERT_TRUE(product.ok());
  EXPECT_FALSE(product->value);
  EXPECT_EQ(product->literals.size(), 4u);

  const auto literal = EvaluateExpression("99999999999999999999 - 1");
  ASSERT_TRUE(literal.ok());
  EXPECT_FALSE(literal->value);
  EXPECT_THAT(literal->literals, ElementsAre(std::numeric_limits<int64_t>::max(), 1));
}

}  // namespace
}  // namespace palimpsest::env
