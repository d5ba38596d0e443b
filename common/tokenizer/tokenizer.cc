#include "common/tokenizer/tokenizer.h"

#include <unicode/bytestream.h>
#include <unicode/normalizer2.h>

#include <algorithm>
#include <utility>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/str_format.h"
#include "common/base/regular_file.h"
#include "common/base/status.h"
#include "common/tokenizer/added_tokens.h"
#include "common/tokenizer/bpe.h"
#include "common/tokenizer/byte_alphabet.h"
#include "common/tokenizer/split_regex.h"
#include "common/tokenizer/tokenizer_spec.h"
#include "common/tokenizer/utf8.h"

namespace palimpsest {
namespace {

constexpr size_t kMaxTextBytes = size_t{1} << 30;  // ICU and the merge list count in int32
constexpr int64_t kMaxFileBytes = int64_t{256} << 20;
// What ByteLevel splits with unless told not to.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

struct Splitter {
  SplitRegex regex;
  bool invert;
  bool remove_delimiter;

  absl::Status Apply(std::vector<std::string_view>& pieces) const {
    std::vector<std::string_view> out;
    for (const std::string_view piece : pieces) {
      ASSIGN_OR_RETURN(const std::vector<SplitRegex::Cut> cuts, regex.Split(piece));
      for (const SplitRegex::Cut& cut : cuts) {
        const bool delimiter = cut.matched != invert;
        if (!(delimiter && remove_delimiter)) out.push_back(cut.text);
      }
    }
    pieces = std::move(out);
    return absl::OkStatus();
  }
};

struct Token {
  std::string text;   // as the file spells it
  std::string bytes;  // what it decodes to
  bool special = false;
};

Token MakeToken(const std::string& text, bool special) {
  // A text with a character that is no byte symbol stands for itself, as in `tokenizers`.
  return {text, BytesOfSymbols(text).value_or(text), special};
}

absl::StatusOr<std::string> Nfc(std::string_view text) {
  UErrorCode error = U_ZERO_ERROR;
  const icu::Normalizer2* nfc = icu::Normalizer2::getNFCInstance(error);
  std::string out;
  icu::StringByteSink<std::string> sink(&out, static_cast<int32_t>(text.size()));
  if (U_SUCCESS(error)) {
    nfc->normalizeUTF8(0, icu::StringPiece(text.data(), static_cast<int32_t>(text.size())), sink,
                       nullptr, error);
  }
  if (U_FAILURE(error)) {
    return absl::InternalError(absl::StrFormat("ICU's NFC fails: %s", u_errorName(error)));
  }
  return out;
}

}  // namespace

struct Tokenizer::Impl {
  absl::flat_hash_map<int32_t, Token> tokens;
  absl::flat_hash_map<std::string, int32_t> ids;
  int32_t vocab_size = 0;
  size_t longest = 0;
  AddedTokenFinder raw_finder;         // tokens looked for in the text as it is
  AddedTokenFinder normalized_finder;  // tokens looked for after normalisation
  bool nfc = false;
  std::vector<Splitter> splitters;
  bool add_prefix_space = false;
  std::optional<Splitter> gpt2;
  std::unique_ptr<const BpeModel> model;
  std::vector<int32_t> prefix_ids, suffix_ids;

  absl::Status ReadTokens(const TokenizerSpec& spec);
  absl::Status ReadSplits(const TokenizerSpec& spec);
  absl::Status CheckTemplate(const TokenizerSpec& spec) const;
  absl::Status EncodeRaw(std::string_view text, std::vector<int32_t>& out) const;
  absl::Status EncodePlain(std::string_view text, std::vector<int32_t>& out) const;
};

absl::Status Tokenizer::Impl::ReadTokens(const TokenizerSpec& spec) {
  ids = spec.model.vocab;
  for (const auto& [text, id] : ids) tokens.emplace(id, MakeToken(text, false));
  std::vector<AddedToken> added;  // special ones first: of two with one text they are found
  int32_t next = static_cast<int32_t>(spec.model.vocab.size());
  absl::flat_hash_map<std::string, AddedToken> seen;
  for (const AddedToken& token : spec.added_tokens) {
    if (token.content.empty()) continue;
    const auto [before, fresh] = seen.emplace(token.content, token);
    if (!fresh && before->second == token) continue;
    // `tokenizers` numbers added tokens itself; a file that disagrees would be read in two ways.
    const auto known = ids.find(token.content);
    const int32_t expected = known == ids.end() ? next : known->second;
    if (!fresh || token.id != expected) {
      return absl::InvalidArgumentError(absl::StrFormat(
          "tokenizer.json: added_tokens: \"%s\" has id %d %s", token.content, token.id,
          fresh ? absl::StrFormat("where %d is due", expected) : "and is there twice"));
    }
    next = std::max(next, token.id + 1);
    ids.insert_or_assign(token.content, token.id);
    added.push_back(token);
  }
  std::stable_partition(added.begin(), added.end(), [](const AddedToken& t) { return t.special; });
  for (const AddedToken& token : added) {
    std::string text = token.content;
    if (token.normalized && nfc) {
      ASSIGN_OR_RETURN(text, Nfc(token.content));
    }
    (token.normalized ? normalized_finder : raw_finder).Add(token, text);
    tokens.insert_or_assign(token.id,
                            MakeToken(text, token.special));  // decoded as normalised, too
  }
  for (const auto& [id, token] : tokens) {
    vocab_size = std::max(vocab_size, id + 1);
    longest = std::max(longest, token.bytes.size());
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::ReadSplits(const TokenizerSpec& spec) {
  for (const TokenizerSpec::Split& split : spec.splits) {
    ASSIGN_OR_RETURN(SplitRegex regex, split.literal ? SplitRegex::CompileLiteral(split.pattern)
                                                     : SplitRegex::Compile(split.pattern));
    splitters.push_back({std::move(regex), split.invert, split.remove_delimiter});
  }
  if (spec.gpt2_split) {
    ASSIGN_OR_RETURN(SplitRegex regex, SplitRegex::Compile(kGpt2Pattern));
    gpt2 = Splitter{std::move(regex), false, false};
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::CheckTemplate(const TokenizerSpec& spec) const {
  for (const auto* side : {&spec.prefix_ids, &spec.suffix_ids}) {
    for (const int32_t id : *side) {
      if (!tokens.contains(id)) {
        return absl::InvalidArgumentError(
            absl::StrFormat("tokenizer.json: post_processor adds id %d, which is no token", id));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::EncodeRaw(std::string_view text, std::vector<int32_t>& out) const {
  for (const auto& segment : raw_finder.Split(text)) {
    if (segment.id != AddedTokenFinder::kPlain) {
      out.push_back(segment.id);
      continue;
    }
    std::string normalized(segment.text);
    if (nfc) {
      ASSIGN_OR_RETURN(normalized, Nfc(segment.text));
    }
    for (const auto& inner : normalized_finder.Split(normalized)) {
      if (inner.id != AddedTokenFinder::kPlain) {
        out.push_back(inner.id);
      } else {
        RETURN_IF_ERROR(EncodePlain(inner.text, out));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status Tokenizer::Impl::EncodePlain(std::string_view text, std::vector<int32_t>& out) const {
  std::vector<std::string_view> pieces = {text};
  for (const Splitter& splitter : splitters) RETURN_IF_ERROR(splitter.Apply(pieces));
  for (const std::string_view piece : pieces) {
    std::string spaced;
    std::vector<std::string_view> words = {piece};
    if (add_prefix_space && !piece.starts_with(' ')) {
      spaced = " " + std::string(piece);
      words = {spaced};
    }
    if (gpt2) RETURN_IF_ERROR(gpt2->Apply(words));
    for (const std::string_view word : words) model->Encode(word, out);
  }
  return absl::OkStatus();
}

Tokenizer::Tokenizer(std::unique_ptr<const Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::~Tokenizer() = default;

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::Load(const std::string& folder) {
  const std::string path = folder + "/tokenizer.json";
  ASSIGN_OR_RETURN(const std::string text, ReadRegularFile(path, kMaxFileBytes));
  absl::StatusOr<std::unique_ptr<const Tokenizer>> tokenizer = FromJson(text);
  if (tokenizer.ok()) return tokenizer;
  return absl::Status(tokenizer.status().code(),
                      absl::StrFormat("%s: %s", folder, std::string(tokenizer.status().message())));
}

absl::StatusOr<std::unique_ptr<const Tokenizer>> Tokenizer::FromJson(std::string_view json_text) {
  ASSIGN_OR_RETURN(const TokenizerSpec spec, ParseTokenizerSpec(json_text));
  auto impl = std::make_unique<Impl>();
  impl->nfc = spec.nfc;
  impl->add_prefix_space = spec.add_prefix_space;
  impl->prefix_ids = spec.prefix_ids;
  impl->suffix_ids = spec.suffix_ids;
  RETURN_IF_ERROR(impl->ReadTokens(spec));
  RETURN_IF_ERROR(impl->ReadSplits(spec));
  RETURN_IF_ERROR(impl->CheckTemplate(spec));
  ASSIGN_OR_RETURN(impl->model, BpeModel::Create(spec.model));
  return std::unique_ptr<const Tokenizer>(new Tokenizer(std::move(impl)));
}

absl::StatusOr<std::vector<int32_t>> Tokenizer::Encode(std::string_view text,
                                                       bool add_special_tokens) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrFormat("text has %d bytes, at most %d", text.size(), kMaxTextBytes));
  }
  std::string repaired;
  if (!IsValidUtf8(text)) {
    repaired = ReplaceInvalidUtf8(text);
    text = repaired;
  }
  std::vector<int32_t> ids;
  if (add_special_tokens) ids = impl_->prefix_ids;
  RETURN_IF_ERROR(impl_->EncodeRaw(text, ids));
  if (add_special_tokens) {
    ids.insert(ids.end(), impl_->suffix_ids.begin(), impl_->suffix_ids.end());
  }
  return ids;
}

absl::StatusOr<std::string> Tokenizer::Decode(std::span<const int32_t> ids,
                                              bool skip_special_tokens) const {
  std::string bytes;
  for (size_t i = 0; i < ids.size(); ++i) {
    const auto it = impl_->tokens.find(ids[i]);
    if (it == impl_->tokens.end()) {
      return absl::InvalidArgumentError(
          absl::StrFormat("ids[%d]=%d is not a token of this tokenizer", i, ids[i]));
    }
    if (!(skip_special_tokens && it->second.special)) bytes += it->second.bytes;
  }
  return ReplaceInvalidUtf8(bytes);
}

int32_t Tokenizer::vocab_size() const { return impl_->vocab_size; }

size_t Tokenizer::longest_token() const { return impl_->longest; }

std::optional<int32_t> Tokenizer::TokenId(std::string_view text) const {
  const auto it = impl_->ids.find(absl::string_view(text.data(), text.size()));
  if (it == impl_->ids.end()) return std::nullopt;
  return it->second;
}

std::string_view Tokenizer::TokenText(int32_t id) const {
  const auto it = impl_->tokens.find(id);
  return it == impl_->tokens.end() ? std::string_view() : std::string_view(it->second.text);
}

std::optional<std::string_view> Tokenizer::TokenBytes(int32_t id) const {
  const auto it = impl_->tokens.find(id);
  if (it == impl_->tokens.end()) return std::nullopt;
  return it->second.bytes;
}

bool Tokenizer::IsSpecial(int32_t id) const {
  const auto it = impl_->tokens.find(id);
  return it != impl_->tokens.end() && it->second.special;
}

std::string StreamDecoder::Push(int32_t id) {
  const auto bytes = tokenizer_->TokenBytes(id);
  if (!bytes || (skip_special_tokens_ && tokenizer_->IsSpecial(id))) return "";
  held_ += *bytes;
  size_t unfinished = 0;
  std::string text = ReplaceInvalidUtf8(held_, unfinished);
  held_.erase(0, held_.size() - unfinished);
  return text;
}

std::string StreamDecoder::Flush() { return ReplaceInvalidUtf8(std::exchange(held_, "")); }

}  // namespace palimpsest
