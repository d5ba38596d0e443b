#include "common/compaction/carried.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <numeric>
#include <set>

#include "common/base/random.h"
#include "tests/unit/common/compaction/slow_match.h"

namespace palimpsest::compaction {
namespace {

using context::Chooser;
using context::Range;
using ::testing::ElementsAre;
using testing::Matrix;
using testing::Row;

constexpr Chooser kAll[] = {Chooser::kAccumulated, Chooser::kCarriedMax, Chooser::kDiverse};

// Seats one by one: each goes to whom it is due most (its quota less what it has), among those with
// a slot left. Quotas are those of the open stretches once the full ones have theirs.
std::vector<int32_t> SlowShares(std::vector<Stretch> stretches, int32_t t) {
  std::vector<int32_t> shares(stretches.size(), 0);
  std::set<size_t> open;
  for (size_t i = 0; i < stretches.size(); ++i) open.insert(i);
  const auto quota = [&](size_t i) {
    double positions = 0, left = t;
    for (size_t k = 0; k < stretches.size(); ++k) {
      open.count(k) ? positions += static_cast<double>(stretches[k].positions) : left -= shares[k];
    }
    return left * static_cast<double>(stretches[i].positions) / positions;
  };
  for (bool found = true; found;) {
    found = false;
    for (size_t i : std::set<size_t>(open)) {
      if (quota(i) <= stretches[i].slots + 1e-9) continue;
      shares[i] = stretches[i].slots;
      open.erase(i);
      found = true;
      break;  // the others' quotas have changed
    }
  }
  for (size_t i : open) shares[i] = static_cast<int32_t>(std::floor(quota(i) + 1e-9));
  std::set<size_t> served;
  while (std::accumulate(shares.begin(), shares.end(), 0) < t) {
    size_t next = stretches.size();
    for (size_t i : open) {
      const auto due = [&](size_t k) { return quota(k) - std::floor(quota(k) + 1e-9); };
      if (served.count(i)) continue;
      if (next == stretches.size() || due(i) > due(next) + 1e-9) next = i;
    }
    served.insert(next);
    ++shares[next];
  }
  return shares;
}

TEST(ShareByPositionsTest, GivesWhatSeatBySeatGives) {
  RandomStream random(3);
  for (int round = 0; round < 3000; ++round) {
    std::vector<Stretch> stretches(random.Between(1, 6));
    int32_t slots = 0;
    for (Stretch& s : stretches) {
      s = {static_cast<int64_t>(random.Between(1, 60)), 0};
      s.slots = static_cast<int32_t>(random.Between(0, s.positions));
      slots += s.slots;
    }
    const auto t = static_cast<int32_t>(random.Between(0, slots));
    const std::vector<int32_t> shares = ShareByPositions(stretches, t);
    ASSERT_EQ(shares, SlowShares(stretches, t)) << "round " << round;
    ASSERT_EQ(std::accumulate(shares.begin(), shares.end(), 0), t);
    for (size_t i = 0; i < shares.size(); ++i) ASSERT_LE(shares[i], stretches[i].slots);
  }
}

TEST(ShareByPositionsTest, AFullStretchGivesTheOthersWhatItCannotHoldAndTiesGoToTheEarlier) {
  const std::vector<Stretch> two = {{44, 12}, {16, 16}}, same = {{10, 10}, {10, 10}};
  EXPECT_THAT(ShareByPositions(two, 12), ElementsAre(9, 3));    // 8.8 and 3.2
  EXPECT_THAT(ShareByPositions(two, 24), ElementsAre(12, 12));  // 17.6 are more than 12
  EXPECT_THAT(ShareByPositions(same, 7), ElementsAre(4, 3));
  EXPECT_THAT(ShareByPositions(std::vector<Stretch>{{40, 0}, {8, 8}}, 3), ElementsAre(0, 3));
  EXPECT_THAT(ShareByPositions(std::vector<Stretch>{}, 0), ElementsAre());
}

// log det of a symmetric positive matrix by elimination.
double LogDet(Matrix a) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    sum += std::log(a[i][i]);
    for (size_t r = i + 1; r < a.size(); ++r) {
      const double f = a[r][i] / a[i][i];
      for (size_t c = i; c < a.size(); ++c) a[r][c] -= f * a[i][c];
    }
  }
  return sum;
}

// The determinant of every candidate set anew.
std::vector<int32_t> SlowDiverse(const Row& importance, const Matrix& keys, int t) {
  const auto cosine = [&](int i, int j) {
    double dot = 0, a = 0, b = 0;
    for (size_t c = 0; c < keys[0].size(); ++c) {
      dot += keys[i][c] * keys[j][c];
      a += keys[i][c] * keys[i][c];
      b += keys[j][c] * keys[j][c];
    }
    return a > 0 && b > 0 ? dot / std::sqrt(a * b) : 0.0;
  };
  std::vector<int32_t> picked;
  while (static_cast<int>(picked.size()) < t) {
    int best = -1;
    double most = 0;
    for (int j = 0; j < static_cast<int>(keys.size()); ++j) {
      if (std::count(picked.begin(), picked.end(), j)) continue;
      std::vector<int32_t> with = picked;
      with.push_back(j);
      Matrix k(with.size(), Row(with.size()));
      for (size_t a = 0; a < with.size(); ++a) {
        for (size_t b = 0; b < with.size(); ++b) {
          k[a][b] = importance[with[a]] * importance[with[b]] *
                    (0.9 * cosine(with[a], with[b]) + (a == b ? 0.1 : 0));
        }
      }
      const double gain = LogDet(k);
      if (best < 0 || gain > most + 1e-9) best = j, most = gain;
    }
    picked.push_back(best);
  }
  std::sort(picked.begin(), picked.end());
  return picked;
}

Row Flat(const Matrix& m) {
  Row out;
  for (const Row& row : m) out.insert(out.end(), row.begin(), row.end());
  return out;
}

TEST(DiverseSlotsTest, PicksWhatTheDeterminantOfEveryCandidateSetSays) {
  RandomStream random(4);
  int otherwise = 0;
  for (int round = 0; round < 400; ++round) {
    const auto w = static_cast<int>(random.Between(1, 14)),
               d = static_cast<int>(random.Between(1, 9));
    const auto t = static_cast<int>(random.Between(0, w));
    Matrix keys(w, Row(d));
    Row importance(w);
    for (int j = 0; j < w; ++j) {
      importance[j] = std::exp(random.Normal());
      for (double& x : keys[j]) x = 1 + random.Normal();  // a part that all have
      if (j > 0 && random.Below(4) == 0) keys[j] = keys[j - 1];
    }
    const std::vector<int32_t> picked = DiverseSlots(importance, Flat(keys), d, t);
    ASSERT_EQ(picked, SlowDiverse(importance, keys, t)) << "round " << round;
    otherwise += picked != LargestByImportance(std::span<const double>(importance), t);
  }
  EXPECT_GT(otherwise, 50);  // the control: likeness matters
}

TEST(DiverseSlotsTest, ATwinGivesWayToAnotherAndTiesGoToTheLowerIndex) {
  const Row keys = {1, 0, 1, 0, 0, 1}, equal = {1, 1, 1};
  EXPECT_THAT(DiverseSlots(Row{1, 0.9, 0.5}, keys, 2, 2), ElementsAre(0, 2));
  // A twin keeps a fifth of its square: 1 - 0.9^2 = 0.19.
  EXPECT_THAT(DiverseSlots(Row{1, 0.9, 0.38}, keys, 2, 2), ElementsAre(0, 1));
  EXPECT_THAT(DiverseSlots(equal, Row(6, 0.5), 2, 2), ElementsAre(0, 1));
  EXPECT_THAT(DiverseSlots(Row(3, 0.0), keys, 2, 2), ElementsAre(0, 1));
  EXPECT_THAT(DiverseSlots(Row{1, 2, 3}, Row(6, 0.0), 2, 2), ElementsAre(1, 2));  // no direction
  EXPECT_THAT(DiverseSlots(equal, keys, 2, 3), ElementsAre(0, 1, 2));
  EXPECT_THAT(DiverseSlots(equal, keys, 2, 0), ElementsAre());
}

// What a slot has received, position by position, and the block that each position is in.
struct Slow {
  Chooser last = Chooser::kDiverse;
  std::map<int32_t, double> received;
  std::map<int32_t, int> block;  // of a position that lies in a compact one: which
  int made = 0;

  bool Same(Chooser chooser) const {
    return (last == Chooser::kAccumulated) == (chooser == Chooser::kAccumulated);
  }
  double With(Chooser chooser, int32_t p, double now) const {
    const auto it = received.find(p);
    if (it == received.end() || !Same(chooser)) return now;
    return chooser == Chooser::kAccumulated ? it->second + now : std::max(it->second, now);
  }
  std::vector<Stretch> Stretches(Range window, const std::vector<int32_t>& slots) const {
    std::vector<Stretch> out;
    int before = -1;
    for (int32_t p = window.begin; p < window.end; ++p) {
      const auto it = block.find(p);
      const int here = it == block.end() ? 0 : it->second;
      if (here != before) out.push_back({});
      before = here;
      ++out.back().positions;
      out.back().slots += static_cast<int32_t>(std::count(slots.begin(), slots.end(), p));
    }
    return out;
  }
};

// Events of a random log over one head: windows of whole blocks (several of them, too), choosers
// that change, kept slots that were chosen or forced.
TEST(CarriedImportanceTest, BringsWhatTheLogSaysPositionByPosition) {
  RandomStream random(6);
  int several = 0, chosen_otherwise = 0;
  for (int log = 0; log < 200; ++log) {
    CarriedImportance carried;
    Slow slow;
    const bool one = random.Below(2) == 0;
    const Chooser always = kAll[random.Below(3)];
    std::vector<int32_t> live;
    std::vector<Range> blocks;
    int32_t processed = 0;
    for (int event = 0; event < 8; ++event) {
      const auto more = static_cast<int32_t>(random.Between(6, 20));
      for (int32_t i = 0; i < more; ++i) live.push_back(processed++);
      Range window = {static_cast<int32_t>(random.Below(static_cast<uint64_t>(processed - 1))), 0};
      window.end = static_cast<int32_t>(random.Between(window.begin + 1, processed));
      for (const Range& b : blocks) {  // whole blocks
        if (b.begin < window.begin && window.begin < b.end) window.begin = b.begin;
        if (b.begin < window.end && window.end < b.end) window.end = b.end;
      }
      std::vector<int32_t> slots;
      for (int32_t p : live) {
        if (window.contains(p)) slots.push_back(p);
      }
      const auto w = static_cast<int>(slots.size());
      const auto t = static_cast<int>(random.Between(0, w));
      const Chooser chooser = one ? always : kAll[random.Below(3)];
      const bool carries = one || random.Below(4) > 0;
      Row received(w), keys(w * 3), expected(w);
      for (double& x : keys) x = random.Normal();
      for (int j = 0; j < w; ++j) {
        received[j] = std::exp(random.Normal());
        expected[j] = slow.With(chooser, slots[j], received[j]);
      }
      const Row alone = received;
      carried.AddEarlier(chooser, slots, received);
      ASSERT_EQ(received, expected) << "log " << log << ", event " << event;
      const std::vector<Stretch> stretches = carried.Stretches(window, slots);
      ASSERT_EQ(stretches, slow.Stretches(window, slots)) << "log " << log << ", event " << event;
      several += stretches.size() > 2;
      std::vector<int32_t> kept, positions;
      Row theirs;
      kept = ChooseCarried(chooser, received, stretches, keys, 3, t);
      chosen_otherwise += kept != ChooseCarried(chooser, alone, stretches, keys, 3, t);
      if (random.Below(3) == 0) {  // forced: any
        kept.resize(t);
        std::iota(kept.begin(), kept.end(), w - t);
      }
      for (int32_t j : kept) positions.push_back(slots[j]), theirs.push_back(received[j]);
      if (carries) {
        carried.Replace(chooser, window, positions, theirs);
        if (!slow.Same(chooser)) slow.received.clear();
        slow.last = chooser;
        for (size_t j = 0; j < positions.size(); ++j) slow.received[positions[j]] = theirs[j];
      } else {
        carried.Replace(window, positions);
      }
      const auto dropped = [&](int32_t p) {
        return window.contains(p) && !std::binary_search(positions.begin(), positions.end(), p);
      };
      std::erase_if(slow.received, [&](const auto& x) { return dropped(x.first); });
      std::erase_if(live, dropped);
      std::erase_if(blocks, [&](Range b) { return window.contains(b.begin); });
      blocks.push_back(window);
      ++slow.made;
      for (int32_t p = window.begin; p < window.end; ++p) slow.block[p] = slow.made;
      ASSERT_EQ(carried.bytes(), std::ssize(slow.received) * 12);
    }
  }
  EXPECT_GT(several, 100);
  EXPECT_GT(chosen_otherwise, 100);  // the control: what is carried decides
}

TEST(CarriedImportanceTest, TheSharesAreOfBlocksNotOfTheWindow) {
  CarriedImportance carried;
  carried.Replace(Chooser::kCarriedMax, {0, 44}, std::vector<int32_t>{3, 20, 40}, Row{5, 6, 7});
  std::vector<int32_t> slots = {3, 20, 40};
  for (int32_t p = 44; p < 60; ++p) slots.push_back(p);
  Row received(slots.size(), 9.0);
  received[0] = received[1] = received[2] = 1;
  carried.AddEarlier(Chooser::kCarriedMax, slots, received);
  const auto stretches = carried.Stretches({0, 60}, slots);
  EXPECT_THAT(stretches, ElementsAre(Stretch{44, 3}, Stretch{16, 16}));
  // 44 of 60 positions: 2.9 of 4, although every raw slot has received more.
  EXPECT_THAT(ChooseCarried(Chooser::kCarriedMax, received, stretches, {}, 0, 4),
              ElementsAre(0, 1, 2, 3));
  EXPECT_THAT(ChooseCarried(Chooser::kAccumulated, received, stretches, {}, 0, 4),
              ElementsAre(3, 4, 5, 6));
}

}  // namespace
}  // namespace palimpsest::compaction
