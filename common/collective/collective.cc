#include "common/collective/collective.h"

#include <algorithm>

#include "absl/strings/str_format.h"

namespace palimpsest {
namespace {

class AloneCollective final : public Collective {
 public:
  int rank() const override { return 0; }
  int size() const override { return 1; }
  absl::Status AllGather(std::span<const float> mine, std::span<float> all) override {
    std::copy(mine.begin(), mine.end(), all.begin());
    return absl::OkStatus();
  }
  absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) override {
    return AllGather(all, mine);
  }
  absl::Status AllReduce(std::span<float>) override { return absl::OkStatus(); }
  absl::Status Broadcast(int, std::string&, absl::Duration) override { return absl::OkStatus(); }
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine) override {
    return std::vector<std::string>{std::string(mine)};
  }
  absl::Status Barrier() override { return absl::OkStatus(); }
  void Fail(const absl::Status&) override {}
  absl::Status health() const override { return absl::OkStatus(); }
};

// A status as bytes: its code, then its message.
std::string BytesOf(const absl::Status& status) {
  return static_cast<char>(status.code()) + std::string(status.message());
}

absl::Status StatusOf(int rank, std::string_view bytes) {
  const auto code =
      bytes.empty() ? absl::StatusCode::kDataLoss : static_cast<absl::StatusCode>(bytes.front());
  if (code == absl::StatusCode::kOk) return absl::OkStatus();
  const std::string message(bytes.substr(std::min<size_t>(1, bytes.size())));
  return absl::Status(code, absl::StrFormat("rank %d: %s", rank, message));
}

}  // namespace

Pending Collective::BeginAllGather(std::span<const float> mine, std::span<float> all) {
  return Pending([done = AllGather(mine, all)] { return done; });
}

Pending Collective::BeginReduceScatter(std::span<float> all, std::span<float> mine) {
  return Pending([done = ReduceScatter(all, mine)] { return done; });
}

Collective& Alone() {
  static AloneCollective alone;  // without state
  return alone;
}

absl::Status Agree(Collective& ranks, const absl::Status& mine) {
  if (ranks.size() == 1) return mine;
  ASSIGN_OR_RETURN(const std::vector<std::string> all, ranks.AllGatherBytes(BytesOf(mine)));
  for (size_t rank = 0; rank < all.size(); ++rank) {
    RETURN_IF_ERROR(StatusOf(static_cast<int>(rank), all[rank]));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string> OfFirst(Collective& ranks, absl::StatusOr<std::string> mine) {
  if (ranks.size() == 1) return mine;
  std::string bytes = mine.ok() ? std::string(1, '\0') + *mine : BytesOf(mine.status());
  ASSIGN_OR_RETURN(const std::vector<std::string> all,
                   ranks.AllGatherBytes(ranks.rank() == 0 ? bytes : std::string()));
  RETURN_IF_ERROR(StatusOf(0, all.front()));
  return all.front().substr(1);
}

}  // namespace palimpsest
