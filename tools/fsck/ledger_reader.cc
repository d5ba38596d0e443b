#include "tools/fsck/ledger_reader.h"

#include <sqlite3.h>

#include <algorithm>
#include <filesystem>
#include <functional>
#include <iterator>
#include <memory>
#include <nlohmann/json.hpp>
#include <set>
#include <string_view>

#include "absl/strings/str_format.h"
#include "tools/fsck/message_reader.h"

namespace palimpsest::tools {
namespace {

// What is read here stands in both.
constexpr std::string_view kFormats[] = {"1", "2"};
constexpr int kBusyMs = 10000;

// One row of an answer, columns from 0.
class Row {
 public:
  explicit Row(sqlite3_stmt* statement) : statement_(statement) {}
  bool IsNull(int column) const { return sqlite3_column_type(statement_, column) == SQLITE_NULL; }
  int64_t Int(int column) const { return sqlite3_column_int64(statement_, column); }
  std::optional<int64_t> OptionalInt(int column) const {
    return IsNull(column) ? std::nullopt : std::optional(Int(column));
  }
  std::optional<double> OptionalReal(int column) const {
    if (IsNull(column)) return std::nullopt;
    return sqlite3_column_double(statement_, column);
  }
  std::string Text(int column) const {
    const unsigned char* text = sqlite3_column_text(statement_, column);
    return text == nullptr ? "" : reinterpret_cast<const char*>(text);
  }
  // Until the next row.
  std::string_view Bytes(int column) const {
    const auto* bytes = static_cast<const char*>(sqlite3_column_blob(statement_, column));
    return {bytes,
            bytes == nullptr ? 0 : static_cast<size_t>(sqlite3_column_bytes(statement_, column))};
  }

 private:
  sqlite3_stmt* statement_;
};

// Sees the ledger as it was at its first question.
class LedgerFile {
 public:
  static absl::StatusOr<LedgerFile> Open(const std::string& path) {
    sqlite3* raw = nullptr;
    const int code = sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READONLY, nullptr);
    LedgerFile file(raw);
    if (code != SQLITE_OK) return file.Failed(path);
    sqlite3_busy_timeout(raw, kBusyMs);
    RETURN_IF_ERROR(file.Each("BEGIN", [](const Row&) {}));
    return file;
  }

  absl::Status Each(const std::string& sql, const std::function<void(const Row&)>& take) const {
    sqlite3_stmt* raw = nullptr;
    if (sqlite3_prepare_v2(db_.get(), sql.c_str(), -1, &raw, nullptr) != SQLITE_OK) {
      return Failed(sql);
    }
    const std::unique_ptr<sqlite3_stmt, decltype(&sqlite3_finalize)> statement(raw,
                                                                               sqlite3_finalize);
    for (;;) {
      const int code = sqlite3_step(raw);
      if (code == SQLITE_DONE) return absl::OkStatus();
      if (code != SQLITE_ROW) return Failed(sql);
      take(Row(raw));
    }
  }

 private:
  explicit LedgerFile(sqlite3* db) : db_(db, sqlite3_close) {}
  absl::Status Failed(const std::string& what) const {
    return absl::DataLossError(absl::StrFormat("ledger: %s: %s", what, sqlite3_errmsg(db_.get())));
  }
  std::unique_ptr<sqlite3, decltype(&sqlite3_close)> db_;
};

absl::Status ReadMeta(const LedgerFile& file, LedgerRows& rows) {
  std::map<std::string, std::string> meta;
  RETURN_IF_ERROR(file.Each("SELECT key, value FROM meta",
                            [&](const Row& row) { meta[row.Text(0)] = row.Text(1); }));
  if (std::find(std::begin(kFormats), std::end(kFormats), meta["format"]) == std::end(kFormats)) {
    return absl::FailedPreconditionError(
        absl::StrFormat("ledger.format=%s, this command reads 1 and 2", meta["format"]));
  }
  rows.run = meta["run"];
  const auto settings = nlohmann::json::parse(meta["settings"], nullptr, false);
  for (const auto& [key, value] : settings.items()) {
    if (value.is_string()) rows.settings[key] = value.get<std::string>();
  }
  return file.Each("PRAGMA integrity_check", [&](const Row& row) {
    if (row.Text(0) != "ok") rows.damage.push_back(row.Text(0));
  });
}

absl::Status ReadTraining(const LedgerFile& file, LedgerRows& rows) {
  RETURN_IF_ERROR(file.Each("SELECT name, first_step, last_step FROM stages ORDER BY first_step",
                            [&](const Row& row) {
                              rows.stages.push_back({row.Text(0), row.Int(1), row.OptionalInt(2)});
                            }));
  RETURN_IF_ERROR(
      file.Each("SELECT step, id, stage, kind, stage_step, trained FROM batches ORDER BY step",
                [&](const Row& row) {
                  constexpr int64_t kRl = 2;
                  rows.batches.push_back({row.Int(0), row.Text(1), row.Text(2), row.Int(3) == kRl,
                                          row.Int(4), row.Int(5) != 0});
                }));
  RETURN_IF_ERROR(file.Each("SELECT step, staleness_max, reward FROM steps", [&](const Row& row) {
    rows.recorded[row.Int(0)] = row.Int(1);
    const std::optional<double> reward = row.OptionalReal(2);
    if (reward.has_value()) rows.rewards[row.Int(0)] = *reward;
  }));
  return file.Each("SELECT version, parent, step FROM versions", [&](const Row& row) {
    rows.versions[row.Int(0)] = {row.Int(0), row.OptionalInt(1), row.Int(2)};
  });
}

absl::Status ReadRollouts(const LedgerFile& file, LedgerRows& rows) {
  RETURN_IF_ERROR(
      file.Each("SELECT id, state, step FROM prompt_groups ORDER BY id", [&](const Row& row) {
        rows.prompts.push_back({row.Int(0), row.Int(1), row.OptionalInt(2)});
      }));
  RETURN_IF_ERROR(file.Each("SELECT what, n FROM counts",
                            [&](const Row& row) { rows.counts[row.Text(0)] = row.Int(1); }));
  return file.Each(
      "SELECT id, grp, sample, task || ' of split ' || split || ', seed ' || seed, idx, outcome, "
      "reward, advantage, prompt_tokens, total_tokens, events, min_version, max_version, bytes "
      "FROM rollouts ORDER BY grp, sample",
      [&](const Row& row) {
        LedgerRollout rollout{.id = row.Text(0),
                              .prompt = row.Int(1),
                              .sample = row.Int(2),
                              .episode = row.Text(3),
                              .index = row.Int(4),
                              .outcome = static_cast<rl::Outcome>(row.Int(5)),
                              .reward = row.OptionalReal(6),
                              .advantage = row.OptionalReal(7),
                              .prompt_tokens = row.Int(8),
                              .total_tokens = row.Int(9),
                              .events = row.Int(10),
                              .min_version = row.Int(11),
                              .max_version = row.Int(12)};
        if (!row.Bytes(13).empty()) rollout.message = ReadMessage(row.Bytes(13));
        rows.rollouts.push_back(std::move(rollout));
      });
}

// A ledger of before has not all of these tables.
absl::Status ReadCuts(const LedgerFile& file, LedgerRows& rows) {
  std::set<std::string> there;
  RETURN_IF_ERROR(file.Each("SELECT name FROM sqlite_master WHERE name LIKE 'cut_%'",
                            [&](const Row& row) { there.insert(row.Text(0)); }));
  if (there.contains("cut_episodes")) {
    RETURN_IF_ERROR(
        file.Each("SELECT grp, sample, responses FROM cut_episodes", [&](const Row& row) {
          rows.cut_episodes[{row.Int(0), row.Int(1)}] = row.Int(2);
        }));
  }
  if (!there.contains("cut_samples")) return absl::OkStatus();
  return file.Each("SELECT grp, sample, bytes FROM cut_samples ORDER BY grp, sample",
                   [&](const Row& row) {
                     rows.cuts.push_back({row.Int(0), row.Int(1), ReadMessage(row.Bytes(2))});
                   });
}

}  // namespace

absl::StatusOr<LedgerRows> ReadLedger(const std::string& path) {
  std::error_code error;
  if (!std::filesystem::is_regular_file(path, error)) {
    return absl::NotFoundError(path + ": there is no ledger");
  }
  ASSIGN_OR_RETURN(const LedgerFile file, LedgerFile::Open(path));
  LedgerRows rows;
  RETURN_IF_ERROR(ReadMeta(file, rows));
  RETURN_IF_ERROR(ReadTraining(file, rows));
  RETURN_IF_ERROR(ReadRollouts(file, rows));
  RETURN_IF_ERROR(ReadCuts(file, rows));
  return rows;
}

}  // namespace palimpsest::tools
