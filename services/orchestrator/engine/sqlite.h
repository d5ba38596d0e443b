#pragma once

#include <concepts>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <utility>

#include "common/base/status.h"

struct sqlite3;
struct sqlite3_stmt;

namespace palimpsest::orchestrator {

// Bound as bytes; every other string is bound as text.
struct Blob {
  std::string_view bytes;
};

// One prepared statement. One thread.
class Statement {
 public:
  // The next row is there: true; no more rows: false.
  absl::StatusOr<bool> Next();
  // For statements without rows.
  absl::Status Run();

  // Columns of the present row, from 0.
  bool IsNull(int column) const;
  int64_t Int(int column) const;
  double Real(int column) const;
  std::string Text(int column) const;  // blobs too
  std::optional<double> OptionalReal(int column) const;
  std::optional<int64_t> OptionalInt(int column) const;

 private:
  friend class Database;
  struct Deleter {
    void operator()(sqlite3_stmt* statement) const;
  };
  Statement(sqlite3* db, sqlite3_stmt* statement) : db_(db), statement_(statement) {}

  void Set(int place, std::nullptr_t);
  void Set(int place, std::integral auto value) { SetInt(place, static_cast<int64_t>(value)); }
  void Set(int place, double value);
  void Set(int place, std::string_view value);
  void Set(int place, Blob value);
  template <class T>
  void Set(int place, const std::optional<T>& value) {
    value.has_value() ? Set(place, *value) : Set(place, nullptr);
  }
  void SetInt(int place, int64_t value);

  sqlite3* db_;
  std::unique_ptr<sqlite3_stmt, Deleter> statement_;
};

// A database file in WAL mode whose commits are on disk when they return. One thread at a time.
class Database {
 public:
  static absl::StatusOr<std::unique_ptr<Database>> Open(const std::string& path);
  // Of a file that is there, for looking only. Writers do not wait for it.
  static absl::StatusOr<std::unique_ptr<Database>> OpenReadOnly(const std::string& path);
  ~Database();

  absl::Status Execute(const char* sql);

  // A statement with its arguments, in the order of its question marks.
  template <class... Args>
  absl::StatusOr<Statement> Query(std::string_view sql, const Args&... args) {
    ASSIGN_OR_RETURN(Statement statement, Prepare(sql));
    int place = 0;
    (statement.Set(++place, args), ...);
    return statement;
  }
  template <class... Args>
  absl::Status Change(std::string_view sql, const Args&... args) {
    ASSIGN_OR_RETURN(Statement statement, Query(sql, args...));
    return statement.Run();
  }

 private:
  explicit Database(sqlite3* db) : db_(db) {}
  absl::StatusOr<Statement> Prepare(std::string_view sql);
  sqlite3* db_;
};

// Rolls back unless committed.
class Transaction {
 public:
  static absl::StatusOr<Transaction> Begin(Database& db);
  Transaction(Transaction&& other) noexcept : db_(std::exchange(other.db_, nullptr)) {}
  ~Transaction();
  absl::Status Commit();

 private:
  explicit Transaction(Database* db) : db_(db) {}
  Database* db_;
};

}  // namespace palimpsest::orchestrator
