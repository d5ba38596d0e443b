#include "services/orchestrator/engine/sqlite.h"

#include <sqlite3.h>

#include "absl/strings/str_format.h"

namespace palimpsest::orchestrator {
namespace {

constexpr int kBusyMs = 10000;

absl::Status Failed(sqlite3* db, std::string_view what) {
  const int code = sqlite3_errcode(db);
  const std::string message =
      absl::StrFormat("ledger: %s: %s", std::string(what), sqlite3_errmsg(db));
  if (code == SQLITE_FULL) return absl::ResourceExhaustedError(message);
  if (code == SQLITE_CORRUPT || code == SQLITE_NOTADB) return absl::DataLossError(message);
  return absl::InternalError(message);
}

}  // namespace

void Statement::Deleter::operator()(sqlite3_stmt* statement) const { sqlite3_finalize(statement); }

absl::StatusOr<bool> Statement::Next() {
  const int code = sqlite3_step(statement_.get());
  if (code == SQLITE_ROW) return true;
  if (code == SQLITE_DONE) return false;
  return Failed(db_, sqlite3_sql(statement_.get()));
}

absl::Status Statement::Run() {
  ASSIGN_OR_RETURN(const bool row, Next());
  if (row) return absl::InternalError("ledger: a change answered with rows");
  return absl::OkStatus();
}

bool Statement::IsNull(int column) const {
  return sqlite3_column_type(statement_.get(), column) == SQLITE_NULL;
}
int64_t Statement::Int(int column) const { return sqlite3_column_int64(statement_.get(), column); }
double Statement::Real(int column) const { return sqlite3_column_double(statement_.get(), column); }
std::string Statement::Text(int column) const {
  const void* bytes = sqlite3_column_blob(statement_.get(), column);
  const int size = sqlite3_column_bytes(statement_.get(), column);
  return size > 0 ? std::string(static_cast<const char*>(bytes), static_cast<size_t>(size)) : "";
}
std::optional<double> Statement::OptionalReal(int column) const {
  return IsNull(column) ? std::nullopt : std::optional(Real(column));
}
std::optional<int64_t> Statement::OptionalInt(int column) const {
  return IsNull(column) ? std::nullopt : std::optional(Int(column));
}

void Statement::Set(int place, std::nullptr_t) { sqlite3_bind_null(statement_.get(), place); }
void Statement::Set(int place, double value) {
  sqlite3_bind_double(statement_.get(), place, value);
}
void Statement::Set(int place, std::string_view value) {
  // An empty view may have no data; SQLite would read that as NULL.
  sqlite3_bind_text64(statement_.get(), place, value.empty() ? "" : value.data(), value.size(),
                      SQLITE_TRANSIENT, SQLITE_UTF8);
}
void Statement::Set(int place, Blob value) {
  sqlite3_bind_blob64(statement_.get(), place, value.bytes.empty() ? "" : value.bytes.data(),
                      value.bytes.size(), SQLITE_TRANSIENT);
}
void Statement::SetInt(int place, int64_t value) {
  sqlite3_bind_int64(statement_.get(), place, value);
}

absl::StatusOr<std::unique_ptr<Database>> Database::Open(const std::string& path) {
  sqlite3* raw = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &raw,
                      SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_FULLMUTEX, nullptr);
  std::unique_ptr<Database> db(new Database(raw));
  if (code != SQLITE_OK) return Failed(raw, path);
  sqlite3_busy_timeout(raw, kBusyMs);
  RETURN_IF_ERROR(db->Execute("PRAGMA journal_mode=WAL; PRAGMA synchronous=FULL;"));
  return db;
}

absl::StatusOr<std::unique_ptr<Database>> Database::OpenReadOnly(const std::string& path) {
  sqlite3* raw = nullptr;
  const int code =
      sqlite3_open_v2(path.c_str(), &raw, SQLITE_OPEN_READONLY | SQLITE_OPEN_FULLMUTEX, nullptr);
  std::unique_ptr<Database> db(new Database(raw));
  if (code == SQLITE_CANTOPEN) return absl::NotFoundError(path + ": there is no ledger to read");
  if (code != SQLITE_OK) return Failed(raw, path);
  sqlite3_busy_timeout(raw, kBusyMs);
  return db;
}

Database::~Database() { sqlite3_close(db_); }

absl::Status Database::Execute(const char* sql) {
  if (sqlite3_exec(db_, sql, nullptr, nullptr, nullptr) != SQLITE_OK) return Failed(db_, sql);
  return absl::OkStatus();
}

absl::StatusOr<Statement> Database::Prepare(std::string_view sql) {
  sqlite3_stmt* statement = nullptr;
  if (sqlite3_prepare_v2(db_, sql.data(), static_cast<int>(sql.size()), &statement, nullptr) !=
      SQLITE_OK) {
    return Failed(db_, sql);
  }
  return Statement(db_, statement);
}

absl::StatusOr<Transaction> Transaction::Begin(Database& db) {
  RETURN_IF_ERROR(db.Execute("BEGIN IMMEDIATE"));
  return Transaction(&db);
}

Transaction::~Transaction() {
  // A rollback that fails leaves a journal, which the next opening rolls back.
  if (db_ != nullptr) db_->Execute("ROLLBACK").IgnoreError();
}

absl::Status Transaction::Commit() {
  RETURN_IF_ERROR(db_->Execute("COMMIT"));
  db_ = nullptr;
  return absl::OkStatus();
}

}  // namespace palimpsest::orchestrator
