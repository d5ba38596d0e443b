#include "services/inference/core/fair_order.h"

#include <gtest/gtest.h>

#include <vector>

#include "common/base/random.h"

namespace palimpsest::inference {
namespace {

TEST(FairOrderTest, OneWhoAsksForMuchWaitsForHimselfOnly) {
  FairOrder order;
  for (int i = 0; i < 100; ++i) order.Tag("greedy", 10);
  const double greedy = order.Tag("greedy", 10), modest = order.Tag("modest", 10);
  EXPECT_EQ(greedy, 1000);
  EXPECT_EQ(modest, 0);
}

TEST(FairOrderTest, SilenceEarnsNoCredit) {
  FairOrder order;
  double last = 0;
  for (int i = 0; i < 50; ++i) order.Served(last = order.Tag("busy", 10));
  EXPECT_EQ(order.Tag("fresh", 10), last);  // behind what is served now, not from the beginning
}

// Three clients who always have something waiting, with requests of very different sizes: each gets
// a third of the tokens, up to one request.
TEST(FairOrderTest, BackloggedClientsShareTheTokensEvenly) {
  struct Waiting {
    int client;
    double tag, cost;
  };
  FairOrder order;
  RandomStream random(5);
  std::vector<Waiting> waiting;
  const auto ask = [&](int client) {
    const double cost = client == 0 ? 5 : client == 1 ? 100 : 20 + 40 * random.Uniform();
    waiting.push_back({client, order.Tag(std::to_string(client), cost), cost});
  };
  for (int client = 0; client < 3; ++client) {
    for (int i = 0; i < 5; ++i) ask(client);
  }
  double served[3] = {};
  for (int i = 0; i < 3000; ++i) {
    const auto next = std::min_element(waiting.begin(), waiting.end(),
                                       [](const auto& a, const auto& b) { return a.tag < b.tag; });
    order.Served(next->tag);
    served[next->client] += next->cost;
    const int client = next->client;
    waiting.erase(next);
    ask(client);
    if (i > 100) {
      for (double other : served) EXPECT_NEAR(served[0], other, 200);
    }
  }
}

TEST(FairOrderTest, WhoLeavesTheQueueCostsItsClientNothing) {
  FairOrder order;
  EXPECT_EQ(order.Tag("a", 100), 0);
  EXPECT_EQ(order.Tag("a", 50), 100);
  EXPECT_EQ(order.Tag("a", 10), 150);
  order.Withdraw("a", 100);
  EXPECT_EQ(order.Advanced(100, 100), 0);
  EXPECT_EQ(order.Advanced(150, 100), 50);
  EXPECT_EQ(order.Tag("a", 7), 60) << "behind the 50 and the 10";
  order.Withdraw("nobody", 5);
  EXPECT_EQ(order.Tag("nobody", 5), 0);
  order.Served(60);
  EXPECT_EQ(order.Advanced(62, 7), 60) << "nobody gets ahead of what was served";
  order.Withdraw("a", 7);
  EXPECT_EQ(order.Tag("a", 1), 60);
}

}  // namespace
}  // namespace palimpsest::inference
