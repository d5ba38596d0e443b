// What the ledger answers; what changes it stands in ledger.cc.
#include <algorithm>
#include <nlohmann/json.hpp>

#include "absl/strings/numbers.h"
#include "absl/strings/str_format.h"
#include "services/orchestrator/engine/ledger.h"

namespace palimpsest::orchestrator {
namespace {

// In the order of ReadRollout.
constexpr char kRolloutColumns[] =
    "r.id, r.grp, r.sample, r.task, r.split, r.seed, r.idx, r.state, r.outcome, r.reward, "
    "r.advantage, r.reason, r.text, g.step, b.id, r.prompt_tokens, r.total_tokens, r.events, "
    "r.min_version, r.max_version, r.accepted_ms, r.turns, r.place";
constexpr char kRolloutTables[] =
    " FROM rollouts r JOIN prompt_groups g ON g.id = r.grp LEFT JOIN batches b ON b.step = g.step ";
constexpr int kPlaceColumn = 22;
constexpr int kBytesColumn = 23;

RolloutRow ReadRollout(const Statement& s) {
  RolloutRow r;
  r.id = s.Text(0);
  r.group = s.Int(1);
  r.sample = static_cast<int32_t>(s.Int(2));
  r.episode = {s.Text(3), static_cast<Split>(s.Int(4)), static_cast<uint64_t>(s.Int(5)), s.Int(6),
               s.Text(7)};
  r.outcome = static_cast<rl::Outcome>(s.Int(8));
  r.reward = s.OptionalReal(9);
  r.advantage = s.OptionalReal(10);
  r.reason = s.Text(11);
  r.text = s.Text(12);
  r.step = s.OptionalInt(13);
  r.batch_id = s.Text(14);
  r.prompt_tokens = static_cast<int32_t>(s.Int(15));
  r.total_tokens = static_cast<int32_t>(s.Int(16));
  r.events = static_cast<int32_t>(s.Int(17));
  r.min_version = s.Int(18);
  r.max_version = s.Int(19);
  r.accepted_unix_ms = s.Int(20);
  r.turns = static_cast<int32_t>(s.Int(21));
  return r;
}

absl::StatusOr<std::vector<RolloutRow>> ReadWithBytes(absl::StatusOr<Statement> query) {
  ASSIGN_OR_RETURN(Statement rows, std::move(query));
  std::vector<RolloutRow> result;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return result;
    result.push_back(ReadRollout(rows));
    result.back().bytes = rows.Text(kBytesColumn);
  }
}

absl::StatusOr<std::map<std::string, double>> PartsOf(const std::string& text) {
  const nlohmann::json object = nlohmann::json::parse(text, nullptr, false);
  if (!object.is_object()) return absl::DataLossError("ledger: parts are no JSON object");
  std::map<std::string, double> parts;
  for (const auto& [name, value] : object.items()) {
    if (!value.is_number()) return absl::DataLossError("ledger: parts." + name + " is no number");
    parts[name] = value.get<double>();
  }
  return parts;
}

std::string SelectRollouts(const std::string& rest) {
  return absl::StrFormat("SELECT %s, r.bytes%s%s", kRolloutColumns, kRolloutTables, rest);
}

}  // namespace

absl::StatusOr<RunRow> Ledger::About() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(
      Statement row,
      db_->Query("SELECT (SELECT value FROM meta WHERE key = 'run'), "
                 "(SELECT value FROM meta WHERE key = 'seed'), COUNT(*), "
                 "COALESCE(MIN(began_ms), 0), COALESCE(MAX(seen_ms), 0) FROM attempts"));
  RETURN_IF_ERROR(row.Next().status());
  RunRow about{.run = row.Text(0), .attempts = static_cast<int32_t>(row.Int(2))};
  if (!absl::SimpleAtoi(row.Text(1), &about.seed)) {
    return absl::DataLossError(absl::StrFormat("ledger.seed=%s is no seed", row.Text(1)));
  }
  about.began = absl::FromUnixMillis(row.Int(3));
  about.seen = absl::FromUnixMillis(row.Int(4));
  return about;
}

absl::StatusOr<double> Ledger::WallSeconds() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement sum,
                   db_->Query("SELECT COALESCE(SUM(seen_ms - began_ms), 0) FROM attempts"));
  RETURN_IF_ERROR(sum.Next().status());
  return static_cast<double>(sum.Int(0)) / 1000;
}

absl::StatusOr<std::optional<StageRow>> Ledger::FindStage(const std::string& name) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement row,
                   db_->Query("SELECT first_step, last_step FROM stages WHERE name = ?", name));
  ASSIGN_OR_RETURN(const bool found, row.Next());
  if (!found) return std::nullopt;
  return StageRow{name, row.Int(0), row.OptionalInt(1)};
}

absl::StatusOr<std::vector<StageRow>> Ledger::Stages() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement s,
                   db_->Query("SELECT name, first_step, last_step FROM stages ORDER BY rowid"));
  std::vector<StageRow> stages;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return stages;
    stages.push_back({s.Text(0), s.Int(1), s.OptionalInt(2)});
  }
}

absl::StatusOr<int64_t> Ledger::LastStep() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement row, db_->Query("SELECT COALESCE(MAX(step), 0) FROM batches"));
  RETURN_IF_ERROR(row.Next().status());
  return row.Int(0);
}

absl::StatusOr<BatchRow> Ledger::Batch(int64_t step) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(
      Statement row,
      db_->Query("SELECT id, stage, kind, stage_step, trained FROM batches WHERE step = ?", step));
  ASSIGN_OR_RETURN(const bool found, row.Next());
  if (!found) return absl::NotFoundError(absl::StrFormat("ledger: no batch of step %d", step));
  return BatchRow{step,       row.Text(0),    row.Text(1), static_cast<BatchKind>(row.Int(2)),
                  row.Int(3), row.Int(4) != 0};
}

absl::StatusOr<std::vector<StepRow>> Ledger::Steps(int64_t after) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement s,
                   db_->Query("SELECT * FROM steps WHERE step > ? ORDER BY step", after));
  std::vector<StepRow> steps;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return steps;
    StepRow r;
    r.step = s.Int(0);
    r.stage = s.Text(1);
    r.loss = s.Real(2);
    r.reward = s.OptionalReal(3);
    r.sampled_tokens = s.Int(4);
    r.mean_total_tokens = s.Real(5);
    r.events = s.Real(6);
    r.staleness_max = s.Int(7);
    r.mismatch_kl = s.OptionalReal(8);
    r.mismatch_max_abs = s.OptionalReal(9);
    r.loss_tokens = s.Int(10);
    r.rejected = s.Int(11);
    r.generate_seconds = s.Real(12);
    r.train_seconds = s.Real(13);
    r.turns = s.Real(14);
    steps.push_back(std::move(r));
  }
}

absl::StatusOr<int64_t> Ledger::NextGroup() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement row, db_->Query("SELECT COALESCE(MAX(id) + 1, 0) FROM prompt_groups"));
  RETURN_IF_ERROR(row.Next().status());
  return row.Int(0);
}

absl::StatusOr<std::map<std::string, TaskRecord>> Ledger::Solved(int32_t groups,
                                                                 double reward) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement s,
                   db_->Query("SELECT task, COUNT(*), SUM(reward >= ?1) FROM rollouts WHERE grp > "
                              "(SELECT MAX(id) FROM prompt_groups) - ?2 GROUP BY task",
                              reward, groups));
  std::map<std::string, TaskRecord> records;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return records;
    records[s.Text(0)] = {.rollouts = s.Int(1), .solved = s.Int(2)};
  }
}

absl::StatusOr<std::vector<GroupRow>> Ledger::Groups(GroupState state) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(
      Statement s,
      db_->Query("SELECT g.id, g.tries, g.task, g.idx, r.sample FROM prompt_groups g LEFT JOIN "
                 "rollouts r ON r.grp = g.id WHERE g.state = ? ORDER BY g.id, r.sample",
                 static_cast<int64_t>(state)));
  std::vector<GroupRow> groups;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return groups;
    if (groups.empty() || groups.back().id != s.Int(0)) {
      groups.push_back({.id = s.Int(0),
                        .task = s.Text(2),
                        .index = s.Int(3),
                        .state = state,
                        .tries = static_cast<int32_t>(s.Int(1))});
    }
    if (!s.IsNull(4)) groups.back().samples.push_back(static_cast<int32_t>(s.Int(4)));
  }
}

absl::StatusOr<int64_t> Ledger::DroppedSinceBatch() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement s,
                   db_->Query("SELECT COUNT(*) FROM prompt_groups WHERE state = ? AND id > "
                              "(SELECT COALESCE(MAX(id), -1) FROM prompt_groups WHERE state = ?)",
                              static_cast<int64_t>(GroupState::kDropped),
                              static_cast<int64_t>(GroupState::kBatched)));
  RETURN_IF_ERROR(s.Next().status());
  return s.Int(0);
}

absl::StatusOr<std::vector<RolloutRow>> Ledger::Rollouts(int64_t group) const {
  absl::MutexLock lock(&mu_);
  return ReadWithBytes(db_->Query(SelectRollouts("WHERE r.grp = ? ORDER BY r.sample"), group));
}

absl::StatusOr<std::vector<RolloutRow>> Ledger::Members(int64_t step) const {
  absl::MutexLock lock(&mu_);
  return ReadWithBytes(
      db_->Query(SelectRollouts("WHERE g.step = ? ORDER BY r.grp, r.sample"), step));
}

absl::StatusOr<std::vector<Weights>> Ledger::Versions() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement s,
                   db_->Query("SELECT version, parent, step, run, attempt, digest FROM versions "
                              "WHERE abandoned = 0 ORDER BY version"));
  std::vector<Weights> versions;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return versions;
    Weights w{.version = PolicyVersion(s.Int(0)),
              .step = s.Int(2),
              .run = s.Text(3),
              .attempt = static_cast<int32_t>(s.Int(4)),
              .manifest_digest = s.Text(5)};
    if (!s.IsNull(1)) w.parent = PolicyVersion(s.Int(1));
    versions.push_back(std::move(w));
  }
}

absl::StatusOr<int64_t> Ledger::VersionCount() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement row, db_->Query("SELECT COUNT(*) FROM versions"));
  RETURN_IF_ERROR(row.Next().status());
  return row.Int(0);
}

absl::StatusOr<std::vector<EvaluationRow>> Ledger::Evaluations(const std::string& name, bool greedy,
                                                               bool bytes) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(
      Statement s,
      db_->Query(
          "SELECT e.idx, reward, needs_memory, total_tokens, events, reason, text, turns, parts, "
          "bytes FROM evaluations e LEFT JOIN evaluation_parts p ON p.name = e.name AND "
          "p.greedy = e.greedy AND p.idx = e.idx WHERE e.name = ? AND e.greedy = ? ORDER BY e.idx",
          name, greedy));
  std::vector<EvaluationRow> result;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return result;
    EvaluationRow r{name, greedy, s.Int(0), s.Real(1), s.Int(2) != 0};
    r.total_tokens = static_cast<int32_t>(s.Int(3));
    r.events = static_cast<int32_t>(s.Int(4));
    r.reason = s.Text(5);
    r.text = s.Text(6);
    r.turns = static_cast<int32_t>(s.Int(7));
    if (!s.IsNull(8)) {
      ASSIGN_OR_RETURN(r.parts, PartsOf(s.Text(8)));
    }
    if (bytes) r.bytes = s.Text(9);
    result.push_back(std::move(r));
  }
}

absl::StatusOr<std::vector<CutRow>> Ledger::Cut(int64_t group) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(
      Statement rows,
      db_->Query("SELECT s.sample, text, bytes, responses, task, split, seed, idx, state FROM "
                 "cut_samples s LEFT JOIN cut_episodes e ON e.grp = s.grp AND e.sample = s.sample "
                 "WHERE s.grp = ? ORDER BY s.sample",
                 group));
  std::vector<CutRow> cut;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, rows.Next());
    if (!more) return cut;
    CutRow row{static_cast<int32_t>(rows.Int(0)), rows.Text(1), rows.Text(2)};
    if (!rows.IsNull(3)) {
      row.responses = static_cast<int32_t>(rows.Int(3));
      row.episode = {rows.Text(4), static_cast<Split>(rows.Int(5)),
                     static_cast<uint64_t>(rows.Int(6)), rows.Int(7), rows.Text(8)};
    }
    cut.push_back(std::move(row));
  }
}

absl::StatusOr<std::vector<UnjudgedRow>> Ledger::Unjudged(const std::string& name,
                                                          bool greedy) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(
      Statement s,
      db_->Query("SELECT idx, reason FROM unjudged WHERE name = ? AND greedy = ? ORDER BY idx",
                 name, greedy));
  std::vector<UnjudgedRow> rows;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return rows;
    rows.push_back({name, greedy, s.Int(0), s.Text(1)});
  }
}

absl::StatusOr<std::vector<EvaluationMean>> Ledger::EvaluationMeans() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement s,
                   db_->Query("SELECT name, greedy, AVG(reward), COUNT(*), (SELECT COUNT(*) FROM "
                              "unjudged u WHERE u.name = e.name AND u.greedy = e.greedy) "
                              "FROM evaluations e GROUP BY name, greedy ORDER BY name, greedy"));
  std::vector<EvaluationMean> means;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return means;
    means.push_back({s.Text(0), s.Int(1) != 0, s.Real(2), s.Int(3), s.Int(4)});
  }
}

absl::StatusOr<std::map<std::string, int64_t>> Ledger::Counts() const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(Statement s, db_->Query("SELECT what, n FROM counts"));
  std::map<std::string, int64_t> counts;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) return counts;
    counts[s.Text(0)] = s.Int(1);
  }
}

absl::StatusOr<RolloutPage> Ledger::List(const RolloutFilter& filter) const {
  absl::MutexLock lock(&mu_);
  const int64_t outcome = filter.outcome.has_value() ? static_cast<int64_t>(*filter.outcome) : 0;
  ASSIGN_OR_RETURN(
      Statement s,
      db_->Query(absl::StrFormat("SELECT %s%sWHERE (?1 IS NULL OR g.step = ?1) AND "
                                 "(?2 IS NULL OR r.grp = ?2) AND (?3 = 0 OR r.outcome = ?3) "
                                 "AND (?4 = 0 OR r.place < ?4) ORDER BY r.place DESC LIMIT ?5",
                                 kRolloutColumns, kRolloutTables),
                 filter.step, filter.group, outcome, filter.before, filter.limit));
  RolloutPage page;
  for (;;) {
    ASSIGN_OR_RETURN(const bool more, s.Next());
    if (!more) break;
    page.rows.push_back(ReadRollout(s));
    page.next = s.Int(kPlaceColumn);
  }
  if (static_cast<int32_t>(page.rows.size()) < filter.limit) page.next = 0;
  return page;
}

absl::StatusOr<std::vector<float>> Ledger::ReplayedLocked(const std::string& id) const {
  ASSIGN_OR_RETURN(Statement row,
                   db_->Query("SELECT logprobs FROM replayed WHERE rollout = ?", id));
  ASSIGN_OR_RETURN(const bool kept, row.Next());
  if (!kept) return std::vector<float>();
  const std::string bytes = row.Text(0);
  std::vector<float> logprobs(bytes.size() / sizeof(float));
  std::copy_n(bytes.data(), logprobs.size() * sizeof(float),
              reinterpret_cast<char*>(logprobs.data()));
  return logprobs;
}

absl::StatusOr<RolloutRow> Ledger::FindRollout(const std::string& id) const {
  absl::MutexLock lock(&mu_);
  ASSIGN_OR_RETURN(std::vector<RolloutRow> rows,
                   ReadWithBytes(db_->Query(SelectRollouts("WHERE r.id = ?"), id)));
  if (rows.empty()) return absl::NotFoundError("rollout_id=" + id + ": no such rollout");
  ASSIGN_OR_RETURN(rows.front().replayed, ReplayedLocked(id));
  ASSIGN_OR_RETURN(Statement parts,
                   db_->Query("SELECT parts FROM rollout_parts WHERE rollout = ?", id));
  ASSIGN_OR_RETURN(const bool kept, parts.Next());
  if (kept) {
    ASSIGN_OR_RETURN(rows.front().parts, PartsOf(parts.Text(0)));
  }
  return std::move(rows.front());
}

}  // namespace palimpsest::orchestrator
