#include "services/trainer/engine/parameter_shards.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <string>
#include <thread>

#include "absl/synchronization/mutex.h"

namespace palimpsest::trainer {
namespace {

constexpr int kLayers = 5, kRanks = 2;
constexpr int64_t kNumbers = 10 * 7;  // of each part that comes and goes

// Where two threads meet.
class Table {
 public:
  // What each brings, once both have come.
  std::array<std::vector<float>, kRanks> Meet(int rank, std::vector<float> mine) {
    absl::MutexLock lock(&mu_);
    const int turn = turns_;
    brought_[rank] = std::move(mine);
    if (++come_ == kRanks) {
      come_ = 0;
      ++turns_;
      both_ = brought_;
    }
    const auto met = [&] { return turns_ > turn; };
    mu_.Await(absl::Condition(&met));
    return both_;
  }

 private:
  absl::Mutex mu_;
  int come_ = 0, turns_ = 0;
  std::array<std::vector<float>, kRanks> brought_, both_;
};

// Ranks that are threads. What is begun happens when it is waited for.
class ThreadRanks final : public Collective {
 public:
  ThreadRanks(Table& table, int rank) : table_(table), rank_(rank) {}
  int rank() const override { return rank_; }
  int size() const override { return kRanks; }

  absl::Status AllGather(std::span<const float> mine, std::span<float> all) override {
    float* to = all.data();
    for (const auto& part : table_.Meet(rank_, {mine.begin(), mine.end()}))
      to = std::ranges::copy(part, to).out;
    return absl::OkStatus();
  }
  absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) override {
    const auto both = table_.Meet(rank_, {all.begin(), all.end()});
    for (size_t i = 0; i < mine.size(); ++i) {
      const size_t at = static_cast<size_t>(rank_) * mine.size() + i;
      mine[i] = both[0][at] + both[1][at];
    }
    return absl::OkStatus();
  }
  Pending BeginAllGather(std::span<const float> mine, std::span<float> all) override {
    ++gathering;
    if (begins) begins();
    return Pending([this, mine, all] {
      --gathering;
      return AllGather(mine, all);
    });
  }
  Pending BeginReduceScatter(std::span<float> all, std::span<float> mine) override {
    ++reducing;
    if (begins) begins();
    return Pending([this, mine, all] {
      --reducing;
      return ReduceScatter(all, mine);
    });
  }

  absl::Status AllReduce(std::span<float>) override { return Unused(); }
  absl::Status Broadcast(int, std::string&, absl::Duration) override { return Unused(); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view) override {
    return Unused();
  }
  absl::Status Barrier() override { return Unused(); }
  void Fail(const absl::Status&) override {}
  absl::Status health() const override { return absl::OkStatus(); }

  int gathering = 0, reducing = 0;  // under way
  std::function<void()> begins;     // called when something is begun

 private:
  static absl::Status Unused() { return absl::UnimplementedError("not for slices"); }
  Table& table_;
  const int rank_;
};

// Layer l of l + 1, an embedding of 8, a head of 9 unless it is tied.
model::NamedTensors Model(bool tied) {
  model::NamedTensors parameters = {
      {"model.embed_tokens.weight", at::full({10, 7}, 8, at::kFloat)}};
  for (int layer = 0; layer < kLayers; ++layer) {
    parameters.emplace_back("model.layers." + std::to_string(layer) + ".weight",
                            at::full({10, 7}, layer + 1, at::kFloat));
  }
  parameters.emplace_back("model.norm.weight", at::ones({7}));
  if (!tied) parameters.emplace_back("lm_head.weight", at::full({10, 7}, 9, at::kFloat));
  return parameters;
}

int Whole(const model::NamedTensors& parameters) {
  return static_cast<int>(std::ranges::count_if(parameters, [](const auto& named) {
    return named.first != "model.norm.weight" && named.second.storage().nbytes() > 0;
  }));
}

// Each of two threads is a rank.
void OnRanks(const std::function<void(ThreadRanks&)>& work) {
  Table table;
  std::vector<std::thread> threads;
  for (int rank = 0; rank < kRanks; ++rank) {
    threads.emplace_back([&, rank] {
      ThreadRanks ranks(table, rank);
      work(ranks);
    });
  }
  for (std::thread& thread : threads) thread.join();
}

const at::Tensor& Weight(const ParameterShards& shards, int part) {
  const model::NamedTensors& parameters = shards.parameters();
  if (part == model::kHead && parameters.back().first == "lm_head.weight") {
    return parameters.back().second;
  }
  return parameters[static_cast<size_t>(std::max(0, part + 1))].second;
}

// A pass and its backward pass, which finds rank + 1 times the weights of each part.
void Pass(ParameterShards& shards, const ThreadRanks& ranks,
          const std::function<void(int part, bool backward)>& look) {
  const auto find = [&](int part, const at::Tensor& weight) {
    shards.Found(part, {Weight(shards, part)}, {weight * (ranks.rank() + 1)});
  };
  shards.Begin(true);
  at::Tensor embedding;
  for (int part = model::kEmbedding; part < kLayers; ++part) {
    const model::LayerHold hold(&shards, part);
    look(part, false);
    if (part == model::kEmbedding) embedding = Weight(shards, part).detach().clone();
  }
  for (const int part : {model::kHead, 4, 3, 2, 1, 0}) {
    const model::LayerHold hold(&shards, part);
    look(part, true);
    find(part, Weight(shards, part).detach());
  }
  find(model::kEmbedding, embedding);
}

TEST(ParameterShardsOfRanksTest, TheNextPartAndTheLastGradientsAreUnderWayWhileOneComputes) {
  OnRanks([](ThreadRanks& ranks) {
    ParameterShards shards(Model(false), ranks, WeightsHeld::kSharded);
    EXPECT_EQ(Whole(shards.parameters()), 0);
    int most_whole = 0, most_reduced = 0;
    ranks.begins = [&] {
      most_whole = std::max(most_whole, Whole(shards.parameters()) + ranks.gathering);
      most_reduced = std::max(most_reduced, ranks.reducing);
    };
    Pass(shards, ranks, [&](int part, bool backward) {
      const int value = part == model::kEmbedding ? 8 : part == model::kHead ? 9 : part + 1;
      EXPECT_TRUE(at::equal(Weight(shards, part).detach(), at::full({10, 7}, value, at::kFloat)));
      EXPECT_EQ(Whole(shards.parameters()), 1);
      EXPECT_EQ(ranks.gathering, backward && part == 0 ? 0 : 1) << part;
      EXPECT_EQ(ranks.reducing, backward && part != model::kHead ? 1 : 0) << part;
    });
    EXPECT_EQ(most_whole, 2);
    EXPECT_EQ(most_reduced, 1);
    EXPECT_EQ(Whole(shards.parameters()), 0);
    const auto gradients = shards.TakeGradients();
    ASSERT_TRUE(gradients.ok()) << gradients.status();
    EXPECT_EQ(ranks.reducing, 0);
    const int values[] = {8, 1, 2, 3, 4, 5, 0, 9};  // the norm found nothing
    for (size_t i = 0; i < gradients->size(); ++i) {
      const at::Tensor& gradient = gradients->at(i);
      EXPECT_TRUE(at::equal(gradient, at::full_like(gradient, 3 * values[i]))) << i;
      EXPECT_EQ(gradient.numel(), i == 6 ? (ranks.rank() == 0 ? 4 : 3) : kNumbers / kRanks);
    }
  });
}

TEST(ParameterShardsOfRanksTest, OfATiedHeadTheGradientsOfBothUsesAddUp) {
  OnRanks([](ThreadRanks& ranks) {
    ParameterShards shards(Model(true), ranks, WeightsHeld::kSharded);
    Pass(shards, ranks, [&](int part, bool) {
      if (part >= 0) return;
      EXPECT_TRUE(at::equal(Weight(shards, part).detach(), at::full({10, 7}, 8, at::kFloat)));
    });
    const auto gradients = shards.TakeGradients();
    ASSERT_TRUE(gradients.ok()) << gradients.status();
    EXPECT_TRUE(at::equal(gradients->at(0), at::full({kNumbers / kRanks}, 2 * 3 * 8, at::kFloat)));
  });
}

TEST(ParameterShardsOfRanksTest, WhoHasNothingToDoTakesPartInPassesOfOthers) {
  OnRanks([](ThreadRanks& ranks) {
    ParameterShards shards(Model(false), ranks, WeightsHeld::kSharded);
    if (ranks.rank() == 0) {
      Pass(shards, ranks, [](int, bool) {});
    } else {
      shards.PassOfNothing(true);
    }
    shards.PassOfNothing(false);
    const auto gradients = shards.TakeGradients();
    ASSERT_TRUE(gradients.ok()) << gradients.status();
    EXPECT_TRUE(at::equal(gradients->at(3), at::full({kNumbers / kRanks}, 3, at::kFloat)));
    EXPECT_TRUE(at::equal(gradients->at(7), at::full({kNumbers / kRanks}, 9, at::kFloat)));
  });
}

TEST(ParameterShardsOfRanksTest, NothingIsFetchedTwiceWhileAllIsWhole) {
  OnRanks([](ThreadRanks& ranks) {
    ParameterShards shards(Model(true), ranks, WeightsHeld::kSharded);
    EXPECT_TRUE(shards
                    .WhileWhole([&] {
                      EXPECT_EQ(Whole(shards.parameters()), 1 + kLayers);
                      ranks.begins = [] { ADD_FAILURE() << "a collective"; };
                      if (ranks.rank() == 1) return absl::OkStatus();
                      shards.Begin(false);  // one rank alone may compute
                      for (int part = model::kEmbedding; part < kLayers; ++part) {
                        const model::LayerHold hold(&shards, part);
                      }
                      return absl::OkStatus();
                    })
                    .ok());
    EXPECT_EQ(Whole(shards.parameters()), 0);
  });
}

TEST(ParameterShardsOfRanksTest, ALayerOutOfTurnIsAMistake) {
  OnRanks([](ThreadRanks& ranks) {
    ParameterShards shards(Model(true), ranks, WeightsHeld::kSharded);
    shards.Begin(true);
    EXPECT_THROW(shards.Take(1), std::logic_error);
  });
}

TEST(SliceLayoutTest, RangesTileTheTensorForAnyNumberOfRanks) {
  for (const int64_t count : {0, 1, 3, 8, 1000}) {
    for (const int size : {1, 2, 3, 4, 7}) {
      int64_t end = 0;
      for (int rank = 0; rank < size; ++rank) {
        const FlatRange range = OwnedRange(count, rank, size);
        EXPECT_EQ(range.begin, end);
        EXPECT_LE(range.count(), (count + size - 1) / size);
        end = range.end;
      }
      EXPECT_EQ(end, count);
    }
  }
}

TEST(SliceLayoutTest, SlicesOfARankFollowOneAnotherInItsRowWhoseLengthIsEven) {
  const SliceLayout layout({7, 1, 4}, 3);
  EXPECT_EQ(layout.width(), 6);  // 3 + 1 + 2
  const SliceLayout::Slice& last = layout.slices().back();
  EXPECT_EQ(last.tensor, 2u);
  EXPECT_EQ(last.rank, 2);
  EXPECT_EQ(last.offset, 4);
  EXPECT_EQ(last.range.count(), 0);
  EXPECT_EQ(SliceLayout({7, 1, 1}, 3).width(), 6) << "5, made even";
}

}  // namespace
}  // namespace palimpsest::trainer
