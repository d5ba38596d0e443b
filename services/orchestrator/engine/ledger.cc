#include "services/orchestrator/engine/ledger.h"

#include <bit>
#include <nlohmann/json.hpp>

#include "absl/strings/str_format.h"

namespace palimpsest::orchestrator {
namespace {

constexpr char kFormat[] = "2";
constexpr char kSchema[] = R"(
CREATE TABLE IF NOT EXISTS meta(key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS attempts(
  attempt INTEGER PRIMARY KEY, began_ms INTEGER NOT NULL, seen_ms INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS stages(
  name TEXT PRIMARY KEY, first_step INTEGER NOT NULL, last_step INTEGER);
CREATE TABLE IF NOT EXISTS batches(
  step INTEGER PRIMARY KEY, id TEXT NOT NULL UNIQUE, stage TEXT NOT NULL, kind INTEGER NOT NULL,
  stage_step INTEGER NOT NULL, trained INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS steps(
  step INTEGER PRIMARY KEY, stage TEXT, loss REAL, reward REAL, sampled_tokens INTEGER,
  mean_total_tokens REAL, events REAL, staleness_max INTEGER, mismatch_kl REAL,
  mismatch_max_abs REAL, loss_tokens INTEGER, rejected INTEGER, generate_seconds REAL,
  train_seconds REAL, turns REAL);
CREATE TABLE IF NOT EXISTS prompt_groups(
  id INTEGER PRIMARY KEY, state INTEGER NOT NULL, tries INTEGER NOT NULL, step INTEGER, note TEXT,
  task TEXT NOT NULL, idx INTEGER NOT NULL, UNIQUE(task, idx));
CREATE TABLE IF NOT EXISTS rollouts(
  place INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE, grp INTEGER NOT NULL,
  sample INTEGER NOT NULL, task TEXT, split INTEGER, seed INTEGER, idx INTEGER, state BLOB,
  outcome INTEGER NOT NULL, reward REAL, advantage REAL, reason TEXT, text TEXT, bytes BLOB,
  prompt_tokens INTEGER, total_tokens INTEGER, events INTEGER, min_version INTEGER,
  max_version INTEGER, accepted_ms INTEGER, turns INTEGER, UNIQUE(grp, sample));
CREATE TABLE IF NOT EXISTS versions(
  version INTEGER PRIMARY KEY, parent INTEGER, step INTEGER NOT NULL, run TEXT, attempt INTEGER,
  digest TEXT, abandoned INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS evaluations(
  name TEXT NOT NULL, greedy INTEGER NOT NULL, idx INTEGER NOT NULL, reward REAL NOT NULL,
  needs_memory INTEGER NOT NULL, total_tokens INTEGER, events INTEGER, reason TEXT, text TEXT,
  bytes BLOB, turns INTEGER, PRIMARY KEY(name, greedy, idx));
CREATE TABLE IF NOT EXISTS counts(what TEXT PRIMARY KEY, n INTEGER NOT NULL);
)";

// Tables that came after the format: a ledger of before gets them when its run goes on, and is read
// as if they were empty.
struct LaterTable {
  std::string name, columns;
};
const std::vector<LaterTable>& LaterTables() {
  static const auto* const tables = new std::vector<LaterTable>{
      {"replayed", "rollout TEXT PRIMARY KEY, logprobs BLOB NOT NULL"},
      {"rollout_parts", "rollout TEXT PRIMARY KEY, parts TEXT NOT NULL"},
      {"evaluation_parts",
       "name TEXT, greedy INTEGER, idx INTEGER, parts TEXT NOT NULL, PRIMARY KEY(name, greedy, "
       "idx)"},
      {"cut_samples",
       "grp INTEGER, sample INTEGER, text TEXT, bytes BLOB NOT NULL, PRIMARY KEY(grp, sample)"},
      {"cut_episodes",
       "grp INTEGER, sample INTEGER, responses INTEGER NOT NULL, task TEXT, split INTEGER, seed "
       "INTEGER, idx INTEGER, state BLOB, PRIMARY KEY(grp, sample)"},
      {"unjudged",
       "name TEXT, greedy INTEGER, idx INTEGER, reason TEXT, PRIMARY KEY(name, greedy, idx)"}};
  return *tables;
}

absl::Status AddLaterTables(Database& db) {
  for (const LaterTable& table : LaterTables()) {
    RETURN_IF_ERROR(
        db.Change(absl::StrFormat("CREATE TABLE IF NOT EXISTS %s(%s)", table.name, table.columns)));
  }
  return absl::OkStatus();
}

// In memory: nothing is written to a ledger that is only read.
absl::Status StandInForMissing(Database& db) {
  for (const LaterTable& table : LaterTables()) {
    ASSIGN_OR_RETURN(Statement row,
                     db.Query("SELECT 1 FROM sqlite_master WHERE name = ?", table.name));
    ASSIGN_OR_RETURN(const bool there, row.Next());
    if (there) continue;
    RETURN_IF_ERROR(
        db.Change(absl::StrFormat("CREATE TEMP TABLE %s(%s)", table.name, table.columns)));
  }
  return absl::OkStatus();
}

std::string Dump(const std::map<std::string, double>& parts) {
  return nlohmann::json(parts).dump();
}

// The value under `key`, written when there is none; another one there is refused.
absl::Status CheckMeta(Database& db, const std::string& key, const std::string& value) {
  RETURN_IF_ERROR(db.Change("INSERT OR IGNORE INTO meta VALUES(?, ?)", key, value));
  ASSIGN_OR_RETURN(Statement row, db.Query("SELECT value FROM meta WHERE key = ?", key));
  RETURN_IF_ERROR(row.Next().status());
  if (row.Text(0) == value) return absl::OkStatus();
  return absl::FailedPreconditionError(
      absl::StrFormat("ledger.%s=%s, but the config says %s", key, row.Text(0), value));
}

int64_t ToInt(GroupState state) { return static_cast<int64_t>(state); }

// As they lie in memory: fp32, little-endian.
std::string_view BytesOf(const std::vector<float>& values) {
  static_assert(std::endian::native == std::endian::little);
  return {reinterpret_cast<const char*>(values.data()), values.size() * sizeof(float)};
}

}  // namespace

absl::StatusOr<std::unique_ptr<Ledger>> Ledger::Open(const std::string& path,
                                                     const std::string& run, uint64_t seed) {
  ASSIGN_OR_RETURN(std::unique_ptr<Database> db, Database::Open(path));
  RETURN_IF_ERROR(db->Execute(kSchema));
  RETURN_IF_ERROR(AddLaterTables(*db));
  RETURN_IF_ERROR(CheckMeta(*db, "format", kFormat));
  RETURN_IF_ERROR(CheckMeta(*db, "run", run));
  RETURN_IF_ERROR(CheckMeta(*db, "seed", std::to_string(seed)));
  return std::unique_ptr<Ledger>(new Ledger(std::move(db)));
}

absl::Status Ledger::Hold(const std::map<std::string, std::string>& settings) {
  if (settings.empty()) return absl::OkStatus();
  RETURN_IF_ERROR(db_->Change("INSERT OR IGNORE INTO meta VALUES('settings', ?)",
                              nlohmann::json(settings).dump()));
  ASSIGN_OR_RETURN(Statement row, db_->Query("SELECT value FROM meta WHERE key = 'settings'"));
  RETURN_IF_ERROR(row.Next().status());
  const nlohmann::json begun = nlohmann::json::parse(row.Text(0), nullptr, false);
  if (!begun.is_object()) return absl::DataLossError("ledger.settings is no JSON object");
  for (const auto& [key, value] : begun.items()) {
    const auto now = settings.find(key);
    if (now != settings.end() && value == now->second) continue;
    return absl::FailedPreconditionError(absl::StrFormat(
        "%s=%s, but this run was begun with %s: another run needs another run.folder", key,
        now == settings.end() ? "(nothing)" : now->second,
        value.is_string() ? value.get<std::string>() : value.dump()));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::unique_ptr<const Ledger>> Ledger::Read(const std::string& path) {
  ASSIGN_OR_RETURN(std::unique_ptr<Database> db, Database::OpenReadOnly(path));
  absl::StatusOr<Statement> format = db->Query("SELECT value FROM meta WHERE key = 'format'");
  // An empty file, say, is a database without tables.
  if (absl::IsInternal(format.status())) return absl::DataLossError(format.status().message());
  RETURN_IF_ERROR(format.status());
  ASSIGN_OR_RETURN(const bool found, format->Next());
  const std::string has = found ? format->Text(0) : "";
  if (has != kFormat) {
    return absl::FailedPreconditionError(
        absl::StrFormat("ledger.format=%s of %s; this version reads %s", has, path, kFormat));
  }
  RETURN_IF_ERROR(StandInForMissing(*db));
  return std::unique_ptr<const Ledger>(new Ledger(std::move(db)));
}

absl::StatusOr<int32_t> Ledger::BeginAttempt(absl::Time now) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement next,
                   db_->Query("SELECT COALESCE(MAX(attempt) + 1, 0) FROM attempts"));
  RETURN_IF_ERROR(next.Next().status());
  attempt_ = static_cast<int32_t>(next.Int(0));
  const int64_t ms = absl::ToUnixMillis(now);
  RETURN_IF_ERROR(db_->Change("INSERT INTO attempts VALUES(?, ?, ?)", attempt_, ms, ms));
  return attempt_;
}

absl::Status Ledger::Beat(absl::Time now) {
  absl::MutexLock lock(&mu_);
  return db_->Change("UPDATE attempts SET seen_ms = ? WHERE attempt = ?", absl::ToUnixMillis(now),
                     attempt_);
}

absl::StatusOr<int64_t> Ledger::BeginStage(const std::string& name, int64_t first_step) {
  absl::MutexLock lock(&mu_);
  RETURN_IF_ERROR(db_->Change("INSERT OR IGNORE INTO stages VALUES(?, ?, NULL)", name, first_step));
  ASSIGN_OR_RETURN(Statement row, db_->Query("SELECT first_step FROM stages WHERE name = ?", name));
  RETURN_IF_ERROR(row.Next().status());
  return row.Int(0);
}

absl::Status Ledger::EndStage(const std::string& name, int64_t last_step) {
  absl::MutexLock lock(&mu_);
  return db_->Change("UPDATE stages SET last_step = ? WHERE name = ?", last_step, name);
}

absl::Status Ledger::InsertBatchLocked(const BatchRow& batch) {
  return db_->Change("INSERT INTO batches VALUES(?, ?, ?, ?, ?, 0)", batch.step, batch.id,
                     batch.stage, static_cast<int64_t>(batch.kind), batch.stage_step);
}

absl::Status Ledger::CommitSftBatch(const BatchRow& batch) {
  absl::MutexLock lock(&mu_);
  return InsertBatchLocked(batch);
}

absl::Status Ledger::CommitRlBatch(const BatchRow& batch, const std::vector<int64_t>& groups,
                                   const std::map<std::string, double>& advantages) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(*db_));
  RETURN_IF_ERROR(InsertBatchLocked(batch));
  for (const int64_t group : groups) {
    RETURN_IF_ERROR(db_->Change("UPDATE prompt_groups SET state = ?, step = ? WHERE id = ?",
                                ToInt(GroupState::kBatched), batch.step, group));
  }
  for (const auto& [id, advantage] : advantages) {
    RETURN_IF_ERROR(db_->Change("UPDATE rollouts SET advantage = ? WHERE id = ?", advantage, id));
  }
  return transaction.Commit();
}

absl::Status Ledger::MarkTrained(const StepRow& r, const std::vector<rl::Replayed>& replayed) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(*db_));
  RETURN_IF_ERROR(db_->Change("UPDATE batches SET trained = 1 WHERE step = ?", r.step));
  RETURN_IF_ERROR(db_->Change(
      "INSERT OR REPLACE INTO steps VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", r.step,
      r.stage, r.loss, r.reward, r.sampled_tokens, r.mean_total_tokens, r.events, r.staleness_max,
      r.mismatch_kl, r.mismatch_max_abs, r.loss_tokens, r.rejected, r.generate_seconds,
      r.train_seconds, r.turns));
  for (const rl::Replayed& rollout : replayed) {
    RETURN_IF_ERROR(db_->Change("INSERT INTO replayed VALUES(?, ?)", rollout.id,
                                Blob{BytesOf(rollout.logprobs)}));
  }
  return transaction.Commit();
}

absl::StatusOr<GroupRow> Ledger::OpenGroup(const std::string& task) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement next,
                   db_->Query("SELECT (SELECT COALESCE(MAX(id) + 1, 0) FROM prompt_groups), "
                              "COALESCE(MAX(idx) + 1, 0) FROM prompt_groups WHERE task = ?",
                              task));
  RETURN_IF_ERROR(next.Next().status());
  GroupRow group{.id = next.Int(0), .task = task, .index = next.Int(1)};
  RETURN_IF_ERROR(db_->Change("INSERT INTO prompt_groups VALUES(?, ?, 0, NULL, NULL, ?, ?)",
                              group.id, ToInt(GroupState::kOpen), group.task, group.index));
  return group;
}

absl::Status Ledger::CountTry(int64_t group) {
  absl::MutexLock lock(&mu_);
  return db_->Change("UPDATE prompt_groups SET tries = tries + 1 WHERE id = ?", group);
}

absl::Status Ledger::Accept(int64_t group, const std::vector<RolloutRow>& rollouts, bool whole,
                            absl::Time now) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(*db_));
  for (const RolloutRow& r : rollouts) {
    RETURN_IF_ERROR(db_->Change(
        "INSERT INTO rollouts VALUES(NULL, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL, ?, ?, ?, ?, ?, ?, "
        "?, ?, ?, ?)",
        r.id, group, r.sample, r.episode.task, static_cast<int64_t>(r.episode.split),
        static_cast<int64_t>(r.episode.seed), r.episode.index, Blob{r.episode.state},
        static_cast<int64_t>(r.outcome), r.reward, r.reason, r.text, Blob{r.bytes}, r.prompt_tokens,
        r.total_tokens, r.events, r.min_version, r.max_version, absl::ToUnixMillis(now), r.turns));
    RETURN_IF_ERROR(DropCutLocked(group, r.sample));
    if (r.parts.empty()) continue;
    RETURN_IF_ERROR(
        db_->Change("INSERT OR REPLACE INTO rollout_parts VALUES(?, ?)", r.id, Dump(r.parts)));
  }
  if (whole) {
    RETURN_IF_ERROR(db_->Change("UPDATE prompt_groups SET state = ? WHERE id = ?",
                                ToInt(GroupState::kReady), group));
  }
  RETURN_IF_ERROR(CountLocked("ok", static_cast<int64_t>(rollouts.size())));
  return transaction.Commit();
}

absl::Status Ledger::DropGroup(int64_t group, const std::string& why) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(*db_));
  RETURN_IF_ERROR(DropCutLocked(group));
  RETURN_IF_ERROR(db_->Change("UPDATE prompt_groups SET state = ?, note = ? WHERE id = ?",
                              ToInt(GroupState::kDropped), why, group));
  return transaction.Commit();
}

absl::Status Ledger::DropCutLocked(int64_t group, std::optional<int32_t> sample) {
  for (const char* table : {"cut_samples", "cut_episodes"}) {
    RETURN_IF_ERROR(db_->Change(
        absl::StrFormat("DELETE FROM %s WHERE grp = ?1 AND (?2 IS NULL OR sample = ?2)", table),
        group, sample));
  }
  return absl::OkStatus();
}

absl::Status Ledger::KeepCut(int64_t group, const std::vector<CutRow>& cut) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(*db_));
  RETURN_IF_ERROR(DropCutLocked(group));
  for (const CutRow& row : cut) {
    RETURN_IF_ERROR(db_->Change("INSERT INTO cut_samples VALUES(?, ?, ?, ?)", group, row.sample,
                                row.text, Blob{row.bytes}));
    if (row.responses == 0) continue;
    const Episode& e = row.episode;
    RETURN_IF_ERROR(db_->Change("INSERT INTO cut_episodes VALUES(?, ?, ?, ?, ?, ?, ?, ?)", group,
                                row.sample, row.responses, e.task, static_cast<int64_t>(e.split),
                                static_cast<int64_t>(e.seed), e.index, Blob{e.state}));
  }
  return transaction.Commit();
}

absl::Status Ledger::DropRollouts(const std::vector<std::string>& ids, const std::string& why) {
  if (ids.empty()) return absl::OkStatus();
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(*db_));
  for (const std::string& id : ids) {
    RETURN_IF_ERROR(db_->Change(
        "UPDATE prompt_groups SET state = ? WHERE state IN (?, ?) AND id = "
        "(SELECT grp FROM rollouts WHERE id = ?)",
        ToInt(GroupState::kOpen), ToInt(GroupState::kOpen), ToInt(GroupState::kReady), id));
    RETURN_IF_ERROR(
        db_->Change("DELETE FROM rollouts WHERE id = ? AND grp IN "
                    "(SELECT id FROM prompt_groups WHERE state = ?)",
                    id, ToInt(GroupState::kOpen)));
    RETURN_IF_ERROR(
        db_->Change("DELETE FROM rollout_parts WHERE rollout = ?1 AND NOT EXISTS "
                    "(SELECT 1 FROM rollouts WHERE id = ?1)",
                    id));
  }
  RETURN_IF_ERROR(CountLocked(why, static_cast<int64_t>(ids.size())));
  return transaction.Commit();
}

absl::Status Ledger::RecordVersion(const Weights& w) {
  absl::MutexLock lock(&mu_);
  const std::optional<int64_t> parent =
      w.parent.has_value() ? std::optional(w.parent->value()) : std::nullopt;
  return db_->Change("INSERT OR REPLACE INTO versions VALUES(?, ?, ?, ?, ?, ?, 0)",
                     w.version.value(), parent, w.step, w.run, w.attempt, w.manifest_digest);
}

absl::Status Ledger::AbandonVersions(int64_t after_step) {
  absl::MutexLock lock(&mu_);
  return db_->Change("UPDATE versions SET abandoned = 1 WHERE step > ?", after_step);
}

absl::Status Ledger::SaveEvaluation(const EvaluationRow& r) {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Transaction transaction, Transaction::Begin(*db_));
  RETURN_IF_ERROR(
      db_->Change("INSERT OR REPLACE INTO evaluations VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                  r.name, r.greedy, r.index, r.reward, r.needs_memory, r.total_tokens, r.events,
                  r.reason, r.text, Blob{r.bytes}, r.turns));
  if (!r.parts.empty()) {
    RETURN_IF_ERROR(db_->Change("INSERT OR REPLACE INTO evaluation_parts VALUES(?, ?, ?, ?)",
                                r.name, r.greedy, r.index, Dump(r.parts)));
  }
  return transaction.Commit();
}

absl::Status Ledger::SaveUnjudged(const UnjudgedRow& r) {
  absl::MutexLock lock(&mu_);
  return db_->Change("INSERT OR REPLACE INTO unjudged VALUES(?, ?, ?, ?)", r.name, r.greedy,
                     r.index, r.reason);
}

absl::Status Ledger::CountLocked(const std::string& what, int64_t n) {
  return db_->Change(
      "INSERT INTO counts VALUES(?, ?) ON CONFLICT(what) DO UPDATE SET n = n + excluded.n", what,
      n);
}

absl::Status Ledger::Count(const std::string& what, int64_t n) {
  absl::MutexLock lock(&mu_);
  return CountLocked(what, n);
}

}  // namespace palimpsest::orchestrator
