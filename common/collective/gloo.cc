#include "common/collective/gloo.h"

#include <ATen/ATen.h>

#include <algorithm>
#include <exception>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>

#include "absl/strings/str_format.h"
#include "common/collective/note_store_torch.h"
#include "common/collective/roll_call.h"

namespace palimpsest {
namespace {

using Work = c10::intrusive_ptr<c10d::Work>;

// c10d adds durations to the time of now: no infinity.
constexpr absl::Duration kLongest = absl::Hours(24 * 365);

std::chrono::milliseconds Milliseconds(absl::Duration d) {
  return absl::ToChronoMilliseconds(std::min(d, kLongest));
}

// The elements of somebody else as a tensor.
at::Tensor Over(std::span<float> values) {
  return at::from_blob(values.data(), {static_cast<int64_t>(values.size())}, at::kFloat);
}
at::Tensor Over(std::span<const float> values) {  // only read
  return Over(std::span(const_cast<float*>(values.data()), values.size()));
}
at::Tensor Over(std::string& bytes) {
  return at::from_blob(bytes.data(), {static_cast<int64_t>(bytes.size())}, at::kByte);
}

// c10's errors bring a stack of many lines.
std::string FirstLine(const std::exception& error) {
  const std::string text = error.what();
  return text.substr(0, text.find('\n'));
}

class GlooCollective final : public Collective {
 public:
  GlooCollective(const JoinOptions& options, const std::string& life, Clock& clock)
      : options_(options), roll_call_(life, options.rank, options.size, options.roll_call, clock) {}

  // Throws what c10d throws.
  void Connect(const std::string& life) {
    const auto gloo = c10d::ProcessGroupGloo::Options::create(Milliseconds(options_.timeout));
    gloo->devices.push_back(c10d::ProcessGroupGloo::createDeviceForHostname(options_.host));
    const auto store = c10::make_intrusive<NoteStore>(life);
    store->setTimeout(Milliseconds(options_.timeout));
    group_ = c10::make_intrusive<c10d::ProcessGroupGloo>(store, options_.rank, options_.size, gloo);
  }

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  absl::Status AllGather(std::span<const float> mine, std::span<float> all) override {
    return Do("all-gather", [&] {
      at::Tensor in = Over(mine), out = Over(all);
      return group_->_allgather_base(out, in);
    });
  }

  absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) override {
    return Do("reduce-scatter", [&] {
      at::Tensor in = Over(all), out = Over(mine);
      return group_->_reduce_scatter_base(out, in);
    });
  }

  absl::Status AllReduce(std::span<float> values) override {
    return Do("all-reduce", [&] {
      std::vector<at::Tensor> tensors = {Over(values)};
      return group_->allreduce(tensors);
    });
  }

  absl::Status Broadcast(int root, std::string& bytes, absl::Duration patience) override {
    at::Tensor size = at::full({1}, static_cast<int64_t>(bytes.size()), at::kLong);
    RETURN_IF_ERROR(BroadcastOf(size, root, rank() == root ? options_.timeout : patience));
    bytes.resize(static_cast<size_t>(size.item<int64_t>()));
    if (bytes.empty()) return absl::OkStatus();
    return BroadcastOf(Over(bytes), root, options_.timeout);
  }

  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine) override {
    at::Tensor size = at::full({1}, static_cast<int64_t>(mine.size()), at::kLong);
    at::Tensor sizes = at::empty({options_.size}, at::kLong);
    RETURN_IF_ERROR(Do("all-gather", [&] { return group_->_allgather_base(sizes, size); }));
    const int64_t longest = sizes.max().item<int64_t>();
    std::string padded(mine);
    padded.resize(static_cast<size_t>(longest));
    at::Tensor in = Over(padded), all = at::empty({options_.size * longest}, at::kByte);
    if (longest > 0) {
      RETURN_IF_ERROR(Do("all-gather", [&] { return group_->_allgather_base(all, in); }));
    }
    std::vector<std::string> parts;
    const char* bytes = reinterpret_cast<const char*>(all.const_data_ptr<uint8_t>());
    for (int i = 0; i < options_.size; ++i) {
      parts.emplace_back(bytes + i * longest, static_cast<size_t>(sizes[i].item<int64_t>()));
    }
    return parts;
  }

  absl::Status Barrier() override {
    return Do("barrier", [&] { return group_->barrier(); });
  }

  void Fail(const absl::Status& why) override { roll_call_.Fail(why); }
  absl::Status health() const override { return roll_call_.health(); }

 private:
  absl::Status BroadcastOf(at::Tensor tensor, int root, absl::Duration patience) {
    return Do("broadcast", [&] {
      std::vector<at::Tensor> tensors = {tensor};
      c10d::BroadcastOptions options;
      options.rootRank = root;
      options.timeout = Milliseconds(patience);
      return group_->broadcast(tensors, options);
    });
  }

  template <class Begin>
  absl::Status Do(const char* operation, const Begin& begin) {
    return roll_call_.Together(operation, [&]() -> absl::Status {
      try {
        const Work work = begin();
        work->wait();
        return absl::OkStatus();
      } catch (const std::exception& error) {
        return absl::UnavailableError(FirstLine(error));
      }
    });
  }

  const JoinOptions options_;
  RollCall roll_call_;
  c10::intrusive_ptr<c10d::ProcessGroupGloo> group_;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> ConnectGloo(const JoinOptions& options,
                                                        const std::string& life, Clock& clock) {
  auto ranks = std::make_unique<GlooCollective>(options, life, clock);
  try {
    ranks->Connect(life);
  } catch (const std::exception& error) {
    return absl::UnavailableError(absl::StrFormat("rank %d of %d cannot connect by %s: %s",
                                                  options.rank, options.size, options.host,
                                                  FirstLine(error)));
  }
  return ranks;
}

}  // namespace palimpsest
