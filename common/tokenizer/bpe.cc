#include "common/tokenizer/bpe.h"

#include <queue>
#include <tuple>

#include "absl/base/thread_annotations.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "common/base/status.h"
#include "common/tokenizer/byte_alphabet.h"

namespace palimpsest {
namespace {

constexpr int32_t kNoToken = -1;
constexpr size_t kCachedWords = 1 << 14;
constexpr size_t kCachedWordBytes = 64;  // longer words are rare and would fill the cache

uint64_t PairKey(int32_t left, int32_t right) {
  return (uint64_t{static_cast<uint32_t>(left)} << 32) | static_cast<uint32_t>(right);
}

}  // namespace

// Ids of words seen before. Full = no more are taken: common words come early.
class BpeModel::WordCache {
 public:
  bool Append(std::string_view word, std::vector<int32_t>& ids) const {
    absl::ReaderMutexLock lock(&mu_);
    const auto it = words_.find(absl::string_view(word.data(), word.size()));
    if (it == words_.end()) return false;
    ids.insert(ids.end(), it->second.begin(), it->second.end());
    return true;
  }

  void Put(std::string_view word, const std::vector<int32_t>& ids) {
    absl::MutexLock lock(&mu_);
    if (words_.size() < kCachedWords) words_.try_emplace(std::string(word), ids);
  }

 private:
  mutable absl::Mutex mu_;
  absl::flat_hash_map<std::string, std::vector<int32_t>> words_ ABSL_GUARDED_BY(mu_);
};

BpeModel::BpeModel() : cache_(std::make_unique<WordCache>()) {}
BpeModel::~BpeModel() = default;

absl::StatusOr<std::unique_ptr<const BpeModel>> BpeModel::Create(const BpeSpec& spec) {
  std::unique_ptr<BpeModel> model(new BpeModel());
  for (int b = 0; b < 256; ++b) {
    const auto it = spec.vocab.find(SymbolOfByte(static_cast<uint8_t>(b)));
    model->id_of_byte_[b] = it == spec.vocab.end() ? kNoToken : it->second;
  }
  model->unk_id_ = kNoToken;
  model->fuse_unk_ = spec.fuse_unk;
  if (!spec.unk_token.empty()) {
    const auto it = spec.vocab.find(spec.unk_token);
    if (it == spec.vocab.end()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("model.unk_token=\"%s\" is not in model.vocab", spec.unk_token));
    }
    model->unk_id_ = it->second;
  }
  if (spec.ignore_merges) {
    for (const auto& [token, id] : spec.vocab) {
      if (auto bytes = BytesOfSymbols(token)) model->whole_words_.emplace(*bytes, id);
    }
  }
  RETURN_IF_ERROR(model->ReadMerges(spec));
  return model;
}

absl::Status BpeModel::ReadMerges(const BpeSpec& spec) {
  merges_.reserve(spec.merges.size());
  for (size_t rank = 0; rank < spec.merges.size(); ++rank) {
    const auto& [left, right] = spec.merges[rank];
    std::array<int32_t, 3> ids{};
    const std::array<std::string, 3> names = {left, right, left + right};
    for (size_t i = 0; i < names.size(); ++i) {
      const auto it = spec.vocab.find(names[i]);
      if (it == spec.vocab.end()) {
        return absl::InvalidArgumentError(absl::StrFormat(
            "model.merges[%d]: token \"%s\" is not in model.vocab", rank, names[i]));
      }
      ids[i] = it->second;
    }
    merges_.insert_or_assign(PairKey(ids[0], ids[1]), Merge{static_cast<int32_t>(rank), ids[2]});
  }
  return absl::OkStatus();
}

const BpeModel::Merge* BpeModel::FindMerge(int32_t left, int32_t right) const {
  const auto it = merges_.find(PairKey(left, right));
  return it == merges_.end() ? nullptr : &it->second;
}

std::vector<BpeModel::Symbol> BpeModel::SymbolsOf(std::string_view word) const {
  std::vector<Symbol> symbols;
  symbols.reserve(word.size());
  bool after_unk = false;
  for (const char c : word) {
    int32_t id = id_of_byte_[static_cast<uint8_t>(c)];
    const bool unk = id == kNoToken;
    if (unk) id = unk_id_;
    const bool skip = id == kNoToken || (unk && after_unk && fuse_unk_);
    after_unk = unk;
    if (skip) continue;
    const auto index = static_cast<int32_t>(symbols.size());
    if (index > 0) symbols.back().next = index;
    symbols.push_back({id, index - 1, -1, false});
  }
  return symbols;
}

void BpeModel::MergeAll(std::vector<Symbol>& symbols) const {
  // {rank, index of the left symbol, merged id}: the strongest merge first, then the leftmost.
  using Candidate = std::tuple<int32_t, int32_t, int32_t>;
  std::priority_queue<Candidate, std::vector<Candidate>, std::greater<>> queue;
  const auto offer = [&](int32_t left) {
    if (left < 0 || symbols[left].next < 0) return;
    const Merge* merge = FindMerge(symbols[left].id, symbols[symbols[left].next].id);
    if (merge != nullptr) queue.emplace(merge->rank, left, merge->id);
  };
  for (size_t i = 0; i < symbols.size(); ++i) offer(static_cast<int32_t>(i));
  while (!queue.empty()) {
    const auto [rank, at, id] = queue.top();
    queue.pop();
    Symbol& left = symbols[at];
    if (left.merged_away || left.next < 0) continue;
    // What stood here when the candidate was made may have been merged since.
    const Merge* merge = FindMerge(left.id, symbols[left.next].id);
    if (merge == nullptr || merge->id != id) continue;
    Symbol& right = symbols[left.next];
    right.merged_away = true;
    left.id = id;
    left.next = right.next;
    if (left.next >= 0) symbols[left.next].previous = at;
    offer(left.previous);
    offer(at);
  }
}

std::vector<int32_t> BpeModel::EncodeAnew(std::string_view word) const {
  const auto whole = whole_words_.find(absl::string_view(word.data(), word.size()));
  if (whole != whole_words_.end()) return {whole->second};
  std::vector<Symbol> symbols = SymbolsOf(word);
  MergeAll(symbols);
  std::vector<int32_t> ids;
  for (const Symbol& symbol : symbols) {
    if (!symbol.merged_away) ids.push_back(symbol.id);
  }
  return ids;
}

void BpeModel::Encode(std::string_view word, std::vector<int32_t>& ids) const {
  const bool cached = word.size() <= kCachedWordBytes;
  if (cached && cache_->Append(word, ids)) return;
  const std::vector<int32_t> fresh = EncodeAnew(word);
  ids.insert(ids.end(), fresh.begin(), fresh.end());
  if (cached) cache_->Put(word, fresh);
}

}  // namespace palimpsest
