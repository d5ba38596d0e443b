#include "common/collective/mesh.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_split.h"
#include "common/collective/link.h"
#include "common/collective/roll_call.h"
#include "common/weights/durable_file.h"

namespace palimpsest {
namespace {

constexpr absl::Duration kPoll = absl::Milliseconds(20);
constexpr absl::Duration kHandshake = absl::Seconds(20);  // of one who may be a stranger
constexpr int64_t kMaxNote = 1 << 10;                     // bytes
constexpr uint64_t kMaxBytes = uint64_t{1} << 36;         // of one message; more is nonsense

std::string_view BytesOf(std::span<const float> values) {
  return {reinterpret_cast<const char*>(values.data()), values.size_bytes()};
}
std::span<char> BytesOf(std::span<float> values) {
  return {reinterpret_cast<char*>(values.data()), values.size_bytes()};
}

// Rank r's n of all.
template <class T>
std::span<T> PartOf(std::span<T> all, int r, size_t n) {
  return all.subspan(static_cast<size_t>(r) * n, n);
}

// A number as the ranks exchange it: between processes of one build.
template <class T>
std::string_view BytesOfValue(const T& value) {
  return {reinterpret_cast<const char*>(&value), sizeof value};
}
template <class T>
std::span<char> BytesOfValue(T& value) {
  return {reinterpret_cast<char*>(&value), sizeof value};
}

absl::Status CheckLength(int peer, uint64_t n) {
  if (n <= kMaxBytes) return absl::OkStatus();
  return absl::DataLossError(absl::StrFormat("rank %d tells of %d bytes", peer, n));
}

class MeshCollective final : public Collective {
 public:
  MeshCollective(const JoinOptions& options, const std::string& life, Clock& clock)
      : options_(options),
        life_(life),
        clock_(clock),
        roll_call_(life, options.rank, options.size, options.roll_call, clock),
        links_(static_cast<size_t>(options.size)) {}

  absl::Status Connect();

  int rank() const override { return options_.rank; }
  int size() const override { return options_.size; }

  absl::Status AllGather(std::span<const float> mine, std::span<float> all) override {
    return roll_call_.Together("all-gather", [&] { return Gather(mine, all); });
  }
  absl::Status ReduceScatter(std::span<float> all, std::span<float> mine) override {
    return roll_call_.Together("reduce-scatter", [&] { return Scatter(all, mine); });
  }
  absl::Status AllReduce(std::span<float> values) override;
  absl::Status Broadcast(int root, std::string& bytes, absl::Duration patience) override;
  absl::StatusOr<std::vector<std::string>> AllGatherBytes(std::string_view mine) override;
  absl::Status Barrier() override {
    return roll_call_.Together("barrier", [&] {
      char come = 0;
      return InTurns([&](int p) { return Swap(p, "!", {&come, 1}); });
    });
  }

  void Fail(const absl::Status& why) override { roll_call_.Fail(why); }
  absl::Status health() const override { return roll_call_.health(); }

 private:
  Deadline Within(absl::Duration patience) const {
    return {clock_.Now() + patience, [this] { return roll_call_.called(); }};
  }
  Link& To(int peer) { return *links_[static_cast<size_t>(peer)]; }

  // `meet` each other rank, see mesh.h.
  template <class Meet>
  absl::Status InTurns(const Meet& meet) {
    for (int turn = 0; turn < size(); ++turn) {
      const int peer = (turn - rank() + size()) % size();
      if (peer != rank()) RETURN_IF_ERROR(meet(peer));
    }
    return absl::OkStatus();
  }
  absl::Status Swap(int peer, std::string_view give, std::span<char> take);
  absl::Status Gather(std::span<const float> mine, std::span<float> all);
  absl::Status Scatter(std::span<const float> all, std::span<float> mine);

  absl::Status ConnectDown(int peer, const LinkContext& context);
  absl::Status AcceptUp(const UniqueFd& listening, const LinkContext& context);

  const JoinOptions options_;
  const std::string life_;
  Clock& clock_;
  RollCall roll_call_;
  std::vector<std::optional<Link>> links_;  // by rank; none to itself
};

absl::Status MeshCollective::Swap(int peer, std::string_view give, std::span<char> take) {
  const Deadline deadline = Within(options_.timeout);
  if (rank() < peer) RETURN_IF_ERROR(To(peer).Write(give, deadline));
  RETURN_IF_ERROR(To(peer).Read(take, deadline));
  return rank() < peer ? absl::OkStatus() : To(peer).Write(give, deadline);
}

absl::Status MeshCollective::Gather(std::span<const float> mine, std::span<float> all) {
  std::ranges::copy(mine, PartOf(all, rank(), mine.size()).begin());
  return InTurns(
      [&](int p) { return Swap(p, BytesOf(mine), BytesOf(PartOf(all, p, mine.size()))); });
}

absl::Status MeshCollective::Scatter(std::span<const float> all, std::span<float> mine) {
  std::ranges::copy(PartOf(all, rank(), mine.size()), mine.begin());
  std::vector<float> theirs(mine.size());
  return InTurns([&](int p) -> absl::Status {
    RETURN_IF_ERROR(Swap(p, BytesOf(PartOf(all, p, mine.size())), BytesOf(std::span(theirs))));
    for (size_t i = 0; i < mine.size(); ++i) mine[i] += theirs[i];
    return absl::OkStatus();
  });
}

absl::Status MeshCollective::AllReduce(std::span<float> values) {
  return roll_call_.Together("all-reduce", [&]() -> absl::Status {
    const auto ranks = static_cast<size_t>(size());
    std::vector<float> part((values.size() + ranks - 1) / ranks), all(part.size() * ranks);
    std::ranges::copy(values, all.begin());
    RETURN_IF_ERROR(Scatter(all, part));
    RETURN_IF_ERROR(Gather(part, all));
    std::copy_n(all.begin(), values.size(), values.begin());
    return absl::OkStatus();
  });
}

absl::Status MeshCollective::Broadcast(int root, std::string& bytes, absl::Duration patience) {
  return roll_call_.Together("broadcast", [&]() -> absl::Status {
    uint64_t n = bytes.size();
    if (rank() == root) {
      for (int p = 0; p < size(); ++p) {
        if (p == root) continue;
        RETURN_IF_ERROR(To(p).Write(BytesOfValue(std::as_const(n)), Within(options_.timeout)));
        RETURN_IF_ERROR(To(p).Write(bytes, Within(options_.timeout)));
      }
      return absl::OkStatus();
    }
    RETURN_IF_ERROR(To(root).Read(BytesOfValue(n), Within(patience)));
    RETURN_IF_ERROR(CheckLength(root, n));
    bytes.resize(n);
    return To(root).Read(std::span(bytes), Within(options_.timeout));
  });
}

absl::StatusOr<std::vector<std::string>> MeshCollective::AllGatherBytes(std::string_view mine) {
  std::vector<std::string> all(static_cast<size_t>(size()));
  all[static_cast<size_t>(rank())] = mine;
  const absl::Status gathered = roll_call_.Together("all-gather", [&] {
    return InTurns([&](int p) -> absl::Status {
      const uint64_t own = mine.size();
      uint64_t n = 0;
      RETURN_IF_ERROR(Swap(p, BytesOfValue(own), BytesOfValue(n)));
      RETURN_IF_ERROR(CheckLength(p, n));
      std::string& theirs = all[static_cast<size_t>(p)];
      theirs.resize(n);
      return Swap(p, mine, std::span(theirs));
    });
  });
  RETURN_IF_ERROR(gathered);
  return all;
}

// Where each rank listens is a note in the life's folder.
std::string PlaceName(int rank) { return absl::StrFormat("at-%d", rank); }

absl::Status MeshCollective::Connect() {
  ASSIGN_OR_RETURN(const Identity identity,
                   ReadIdentity(options_.tls, Role::kTrainer, clock_.Now()));
  ASSIGN_OR_RETURN(const LinkContext context, LinkContext::Make(identity));
  ASSIGN_OR_RETURN(const UniqueFd listening, ListenOn(options_.host));
  RETURN_IF_ERROR(weights::WriteFileDurably(
      life_ + "/" + PlaceName(rank()), absl::StrFormat("%s %d", options_.host, PortOf(listening))));
  for (int p = 0; p < rank(); ++p) RETURN_IF_ERROR(ConnectDown(p, context));
  for (int p = rank() + 1; p < size(); ++p) RETURN_IF_ERROR(AcceptUp(listening, context));
  return absl::OkStatus();
}

absl::Status MeshCollective::ConnectDown(int peer, const LinkContext& context) {
  const Deadline deadline = Within(options_.timeout);
  std::vector<std::string> place;
  int port = 0;
  for (;;) {
    RETURN_IF_ERROR(weights::ListFolder(life_).status());  // makes a network file system look again
    const auto note = weights::ReadSmallFile(life_ + "/" + PlaceName(peer), kMaxNote);
    if (note.ok()) place = absl::StrSplit(*note, ' ');
    if (place.size() == 2 && absl::SimpleAtoi(place[1], &port)) break;
    if (clock_.Now() >= deadline.at || deadline.given_up()) {
      return absl::UnavailableError(absl::StrFormat("rank %d does not say where it listens", peer));
    }
    clock_.SleepFor(kPoll);
  }
  ASSIGN_OR_RETURN(UniqueFd socket, ConnectTo(place[0], port, deadline, clock_));
  ASSIGN_OR_RETURN(Link link, Link::Open(std::move(socket), Link::Side::kConnects, context,
                                         Role::kTrainer, deadline, clock_));
  const int32_t own = rank();
  RETURN_IF_ERROR(link.Write(BytesOfValue(own), deadline));
  links_[static_cast<size_t>(peer)] = std::move(link);
  return absl::OkStatus();
}

// Whoever is not believed, or says nothing, may knock as often as he likes.
absl::Status MeshCollective::AcceptUp(const UniqueFd& listening, const LinkContext& context) {
  const Deadline deadline = Within(options_.timeout);
  for (;;) {
    ASSIGN_OR_RETURN(UniqueFd socket, AcceptFrom(listening, deadline, clock_));
    const Deadline soon = Within(std::min(options_.timeout, kHandshake));
    absl::StatusOr<Link> link =
        Link::Open(std::move(socket), Link::Side::kAccepts, context, Role::kTrainer, soon, clock_);
    int32_t peer = -1;
    if (!link.ok() || !link->Read(BytesOfValue(peer), soon).ok()) continue;
    if (peer <= rank() || peer >= size() || links_[static_cast<size_t>(peer)]) continue;
    links_[static_cast<size_t>(peer)] = *std::move(link);
    return absl::OkStatus();
  }
}

}  // namespace

absl::StatusOr<std::unique_ptr<Collective>> ConnectMesh(const JoinOptions& options,
                                                        const std::string& life, Clock& clock) {
  auto ranks = std::make_unique<MeshCollective>(options, life, clock);
  const absl::Status connected = ranks->Connect();
  if (connected.ok()) return ranks;
  if (absl::IsInvalidArgument(connected)) return connected;
  return absl::UnavailableError(absl::StrFormat("rank %d of %d cannot connect by %s: %s",
                                                options.rank, options.size, options.host,
                                                connected.ToString()));
}

}  // namespace palimpsest
