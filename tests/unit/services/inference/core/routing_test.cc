#include "services/inference/core/routing.h"

#include <gmock/gmock.h>

#include <cmath>
#include <set>

namespace palimpsest::inference {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Not;

constexpr double kFactor = 1.25;
constexpr int kKeys = 10'000;

std::vector<ReplicaView> Fleet(int count) {
  std::vector<ReplicaView> fleet;
  for (int i = 0; i < count; ++i) {
    fleet.push_back({.name = "inference-" + std::to_string(i),
                     .standing = Standing::kReady,
                     .version = 1,
                     .room = 4});
  }
  return fleet;
}

Wish WishFor(int key) {
  return {.key = AffinityKey("prompt " + std::to_string(key)), .samples = 1};
}

std::vector<std::string> Names(const std::vector<ReplicaView>& fleet, const Wish& wish) {
  std::vector<std::string> names;
  for (const size_t i : OrderReplicas(fleet, wish, kFactor)) names.push_back(fleet[i].name);
  return names;
}

// Each of 8 replicas gets 1250 of 10^4 keys, give or take five standard deviations of a fair draw.
TEST(RoutingTest, KeysAreSpreadEvenly) {
  const auto fleet = Fleet(8);
  std::vector<int> keys(8);
  for (int key = 0; key < kKeys; ++key) ++keys[OrderReplicas(fleet, WishFor(key), kFactor)[0]];
  const double mean = kKeys / 8.0, spread = std::sqrt(mean * 7 / 8);
  for (const int count : keys) EXPECT_NEAR(count, mean, 5 * spread);
}

// A home that is away is still the home: what goes elsewhere then misses its pages.
TEST(RoutingTest, AChoiceIsHomeKnownOrElsewhere) {
  auto fleet = Fleet(3);
  Wish wish = WishFor(7);
  const size_t home = OrderReplicas(fleet, wish, kFactor)[0];
  EXPECT_EQ(ChoiceOf(fleet, wish, home), Choice::kHome);
  fleet[home].standing = Standing::kAway;
  const size_t next = OrderReplicas(fleet, wish, kFactor)[0];
  EXPECT_NE(next, home);
  EXPECT_EQ(ChoiceOf(fleet, wish, next), Choice::kElsewhere);
  wish.known_to = fleet[next].name;
  EXPECT_EQ(ChoiceOf(fleet, wish, next), Choice::kKnown);
}

TEST(RoutingTest, WhenAReplicaGoesOnlyItsKeysMoveAndTheyComeBackWithIt) {
  const auto whole = Fleet(8);
  auto less = whole;
  less[3].standing = Standing::kAway;
  int moved = 0;
  for (int key = 0; key < kKeys; ++key) {
    const auto before = Names(whole, WishFor(key)), after = Names(less, WishFor(key));
    ASSERT_EQ(after.size(), 7u);
    moved += before[0] != after[0];
    // The next of the old order takes over.
    EXPECT_EQ(after[0], before[0] == "inference-3" ? before[1] : before[0]);
  }
  EXPECT_NEAR(moved, kKeys / 8, 170);
}

// The control: by modulo nearly all keys would move.
TEST(RoutingTest, AModuloWouldMoveMostKeys) {
  int moved = 0;
  for (int key = 0; key < kKeys; ++key) {
    const uint64_t hash = WishFor(key).key;
    moved += hash % 8 != hash % 7;
  }
  EXPECT_GT(moved, kKeys * 3 / 4);
}

TEST(RoutingTest, TheOrderInWhichReplicasAreKnownDoesNotMatter) {
  auto fleet = Fleet(5);
  const auto names = Names(fleet, WishFor(7));
  std::reverse(fleet.begin(), fleet.end());
  EXPECT_EQ(Names(fleet, WishFor(7)), names);
}

TEST(RoutingTest, AKeyStaysWhileItsReplicaHasAFreeRow) {
  auto fleet = Fleet(3);
  const size_t first = OrderReplicas(fleet, WishFor(1), kFactor)[0];
  for (int load = 0; load < 4; ++load) {
    fleet[first].load = load;
    EXPECT_EQ(OrderReplicas(fleet, WishFor(1), kFactor)[0], first) << load;
  }
}

TEST(RoutingTest, AReplicaFarAboveTheOthersGivesItsKeyToTheNext) {
  auto fleet = Fleet(3);
  const auto order = OrderReplicas(fleet, WishFor(1), kFactor);
  fleet[order[0]].load = 20;
  EXPECT_THAT(OrderReplicas(fleet, WishFor(1), kFactor), ElementsAre(order[1], order[2], order[0]));
  // Where all have as much to do the key stays.
  for (auto& r : fleet) r.load = 20;
  EXPECT_EQ(OrderReplicas(fleet, WishFor(1), kFactor), order);
  // Loads of no matter: a session is a place, not work.
  fleet[order[0]].load = 200;
  Wish session = WishFor(1);
  session.samples = 0;
  EXPECT_EQ(OrderReplicas(fleet, session, kFactor), order);
}

// One prompt asked for again and again: nobody gets more than its bound.
TEST(RoutingTest, ASingleHotKeyIsSharedUpToTheBound) {
  auto fleet = Fleet(4);
  for (int i = 0; i < 1000; ++i) ++fleet[OrderReplicas(fleet, WishFor(1), kFactor)[0]].load;
  for (const auto& r : fleet) EXPECT_LE(r.load, kFactor * 1000 / 4 + 1) << r.name;
}

TEST(RoutingTest, WhoKnowsTheRequestComesFirstHoweverLoaded) {
  auto fleet = Fleet(3);
  const auto order = OrderReplicas(fleet, WishFor(1), kFactor);
  Wish wish = WishFor(1);
  wish.known_to = fleet[order[2]].name;
  fleet[order[2]].load = 1000;
  fleet[order[2]].standing = Standing::kDoubtful;
  EXPECT_EQ(OrderReplicas(fleet, wish, kFactor)[0], order[2]);
  fleet[order[2]].standing = Standing::kAway;
  EXPECT_THAT(OrderReplicas(fleet, wish, kFactor), ElementsAre(order[0], order[1]));
}

TEST(RoutingTest, TheDoubtfulAndTheOldAreAskedLast) {
  auto fleet = Fleet(4);
  const auto order = OrderReplicas(fleet, WishFor(1), kFactor);
  for (auto& r : fleet) r.version = 5;
  fleet[order[0]].standing = Standing::kDoubtful;
  fleet[order[1]].version = 4;
  Wish wish = WishFor(1);
  wish.min_version = 5;
  EXPECT_THAT(OrderReplicas(fleet, wish, kFactor),
              ElementsAre(order[2], order[3], order[1], order[0]));
  for (auto& r : fleet) r.standing = Standing::kAway;
  EXPECT_THAT(OrderReplicas(fleet, wish, kFactor), IsEmpty());
}

TEST(SentRequestsTest, RemembersTheLatest) {
  SentRequests sent(2);
  sent.Set("a", "one");
  sent.Set("a", "two");
  sent.Set("b", "one");
  EXPECT_EQ(sent.Find("a"), "two");
  sent.Set("c", "one");
  EXPECT_EQ(sent.Find("a"), "");
  EXPECT_EQ(sent.Find("b"), "one");
  EXPECT_EQ(sent.size(), 2u);
}

TEST(SessionNameTest, GoesThereAndBackAndNothingElseIsOne) {
  const SessionName name{"inference-3", "s01/x"};
  EXPECT_EQ(SplitSession(JoinSession(name.replica, name.id)), name);
  for (const char* text : {"", "/", "a/", "/s", "s0123"}) {
    EXPECT_FALSE(SplitSession(text).has_value()) << text;
  }
}

}  // namespace
}  // namespace palimpsest::inference
