#include "common/http/places.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include "common/base/unique_fd.h"

namespace palimpsest {
namespace {

class PlacesTest : public ::testing::Test {
 protected:
  absl::Time At(int second) const { return absl::UnixEpoch() + absl::Seconds(second); }
  struct Pair {
    Pair() {
      int both[2];
      EXPECT_EQ(socketpair(AF_UNIX, SOCK_STREAM, 0, both), 0);
      near = UniqueFd(both[0]);
      far = UniqueFd(both[1]);
    }
    bool ShutDown() const {
      char byte;
      return recv(far.get(), &byte, 1, MSG_DONTWAIT) == 0;
    }
    UniqueFd near, far;
  };
  Pair a_, b_, c_;
};

TEST_F(PlacesTest, ThereAreSoManyAndOneWhoLeavesMakesRoom) {
  Places places(2);
  EXPECT_TRUE(places.Take(a_.near.get(), At(0), At(10)));
  EXPECT_TRUE(places.Take(b_.near.get(), At(0), At(10)));
  EXPECT_FALSE(places.Take(c_.near.get(), At(9), At(10)));
  places.Leave(a_.near.get());
  EXPECT_TRUE(places.Take(c_.near.get(), At(9), At(10)));
  EXPECT_FALSE(a_.ShutDown() || b_.ShutDown());
}

TEST_F(PlacesTest, ANewcomerGetsThePlaceOfWhosePeaceEndedFirst) {
  Places places(2);
  EXPECT_TRUE(places.Take(a_.near.get(), At(0), At(3)));
  EXPECT_TRUE(places.Take(b_.near.get(), At(1), At(2)));
  EXPECT_TRUE(places.Take(c_.near.get(), At(5), At(20)));
  EXPECT_TRUE(b_.ShutDown());
  EXPECT_FALSE(a_.ShutDown());
  EXPECT_FALSE(places.Keep(b_.near.get(), At(20)));
  EXPECT_TRUE(places.Keep(a_.near.get(), absl::InfiniteFuture()));
  EXPECT_FALSE(places.Take(b_.near.get(), At(19), At(30)));
}

TEST_F(PlacesTest, WhoHasLostItsPlaceTakesNobodyElsesWithIt) {
  Places places(1);
  EXPECT_TRUE(places.Take(a_.near.get(), At(0), At(1)));
  EXPECT_TRUE(places.Take(b_.near.get(), At(1), At(9)));
  places.Leave(a_.near.get());
  EXPECT_FALSE(places.Take(c_.near.get(), At(2), At(9)));
}

}  // namespace
}  // namespace palimpsest
