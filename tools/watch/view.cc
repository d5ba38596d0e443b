#include "tools/watch/view.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "absl/strings/str_format.h"

namespace palimpsest::tools {
namespace {

using nlohmann::json;

constexpr int kName = 12;        // columns of a line's name
constexpr int kNumber = 9;       // and of its newest value
constexpr int kSpark = 60;       // blocks at most
constexpr size_t kRollouts = 3;  // newest ones

const json& At(const json& object, const char* key) {
  static const json kNothing;
  return object.is_object() && object.contains(key) ? object[key] : kNothing;
}
std::optional<double> Number(const json& object, const char* key) {
  const json& value = At(object, key);
  return value.is_number() ? std::optional(value.get<double>()) : std::nullopt;
}
std::string Text(const json& object, const char* key) {
  const json& value = At(object, key);
  return value.is_string() ? value.get<std::string>() : "-";
}

bool Continues(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// At most `columns` characters; control characters, which could move the cursor, become spaces.
std::string Line(const std::string& text, int columns) {
  std::string line;
  int used = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const auto c = static_cast<unsigned char>(text[i]);
    if (!Continues(text[i]) && ++used > columns) break;
    // U+0080 to U+009F are controls, too; in UTF-8 they are C2 and the byte itself.
    const auto next = i + 1 < text.size() ? static_cast<unsigned char>(text[i + 1]) : 0;
    if (c == 0xc2 && next < 0xa0) {
      line += ' ';
      ++i;
    } else {
      line += c < 0x20 || c == 0x7f ? ' ' : text[i];
    }
  }
  return line;
}

std::string Show(const std::optional<double>& value, int digits) {
  if (!value.has_value()) return "-";
  return digits < 0 ? absl::StrFormat("%.1e", *value) : absl::StrFormat("%.*f", digits, *value);
}

std::string ClockTime(const std::optional<double>& seconds) {
  if (!seconds.has_value()) return "-";
  const int64_t s = std::llround(std::clamp(*seconds, 0.0, 1e9));
  return absl::StrFormat("%d:%02d:%02d", s / 3600, s / 60 % 60, s % 60);
}

std::string Version(const std::optional<double>& version) {
  return version.value_or(-1) < 0 ? "-" : "v" + Show(version, 0);
}

// A curve of RL: its name, its newest value and its course.
std::string Curve(const WatchFacts& facts, const char* name, const char* key, int digits,
                  int columns) {
  std::vector<double> values;
  const json& steps = At(facts.curves, "steps");
  std::optional<double> last;
  for (const json& step : steps.is_array() ? steps : json::array()) {
    const std::optional<double> value =
        Number(step, "rl_step").has_value() ? Number(step, key) : std::nullopt;
    if (!value.has_value()) continue;
    last = value;
    values.push_back(digits < 0 ? std::log10(std::max(*value, 1e-30)) : *value);
  }
  return absl::StrFormat("%-*s%*s  %s", kName, name, kNumber, Show(last, digits),
                         Sparkline(values, std::min(kSpark, columns - kName - kNumber - 2)));
}

std::string Where(const json& p) {
  const std::optional<double> total = Number(p, "total_steps"), step = Number(p, "step");
  if (total.value_or(0) <= 0) return Text(p, "stage");
  return absl::StrFormat("%s %s/%s", Text(p, "stage"), Show(step, 0), Show(total, 0));
}

std::string Heldout(const json& curves) {
  std::string told;
  const json& means = At(curves, "heldout");
  for (const json& mean : means.is_array() ? means : json::array()) {
    if (At(mean, "greedy") != json(false)) continue;
    told += absl::StrFormat("%s%s %s", told.empty() ? "" : "   ", Text(mean, "name"),
                            Show(Number(mean, "reward"), 3));
  }
  return told.empty() ? "-" : told;
}

std::string Peers(const json& fleet) {
  std::string told;
  const json& peers = At(fleet, "peers");
  for (const json& peer : peers.is_array() ? peers : json::array()) {
    const bool ready = At(peer, "ready") == json(true);
    told += absl::StrFormat("%s%s-%s %s", told.empty() ? "" : "   ", Text(peer, "role"),
                            Show(Number(peer, "rank"), 0), ready ? "ready" : "AWAY");
    if (!ready && Text(peer, "last_error") != "-") told += " (" + Text(peer, "last_error") + ")";
  }
  return told.empty() ? "nobody makes this run now" : told;
}

std::string Named(const char* name, const std::string& text) {
  return absl::StrFormat("%-*s%s", kName, name, text);
}

void AddRollouts(const WatchFacts& facts, std::vector<std::string>& lines) {
  const json& rows = At(facts.rollouts, "rows");
  for (size_t i = 0; rows.is_array() && i < std::min(kRollouts, rows.size()); ++i) {
    lines.push_back(
        Named(i == 0 ? "rollouts" : "",
              absl::StrFormat("%s  %s  %s events  %s", Show(Number(rows[i], "reward"), 3),
                              Text(rows[i], "id"), Show(Number(rows[i], "events"), 0),
                              Text(rows[i], "text"))));
  }
}

}  // namespace

std::string Sparkline(const std::vector<double>& values, int columns) {
  constexpr const char* kBlocks[] = {"▁", "▂", "▃", "▄", "▅", "▆", "▇", "█"};
  const auto n = std::min(values.size(), static_cast<size_t>(std::max(0, columns)));
  std::vector<double> means;
  for (size_t i = 0; i < n; ++i) {
    const size_t from = i * values.size() / n, to = (i + 1) * values.size() / n;
    double sum = 0;
    for (size_t j = from; j < to; ++j) sum += values[j];
    means.push_back(sum / static_cast<double>(to - from));
  }
  std::string line;
  const auto [low, high] = std::minmax_element(means.begin(), means.end());
  for (const double mean : means) {
    const double share = *high > *low ? (mean - *low) / (*high - *low) : 0;
    line += kBlocks[std::clamp(static_cast<int>(share * 8), 0, 7)];
  }
  return line;
}

std::vector<std::string> WatchLines(const WatchFacts& facts, int columns) {
  const json& p = facts.progress;
  std::vector<std::string> lines = {
      absl::StrFormat("%s   %s   %s   elapsed %s   left %s", Text(p, "run"), Text(p, "phase"),
                      Where(p), ClockTime(Number(p, "elapsed_seconds")),
                      ClockTime(Number(p, "left_seconds"))),
      Curve(facts, "reward", "reward", 3, columns),
      Curve(facts, "tokens/s", "tokens_per_second", 0, columns),
      Curve(facts, "mismatch", "mismatch_kl", -1, columns),
      Curve(facts, "staleness", "staleness_max", 0, columns),
      Curve(facts, "events", "events", 1, columns),
      Named("held-out", Heldout(facts.curves)),
      Named("weights", Version(Number(p, "policy_version"))),
      Named("fleet", Peers(facts.fleet))};
  if (const std::string failure = Text(p, "failure"); failure != "-" && !failure.empty()) {
    lines.push_back(Named("failure", failure));
  }
  AddRollouts(facts, lines);
  for (const std::string& warning : facts.warnings) lines.push_back(Named("warning", warning));
  if (!facts.page.empty()) lines.push_back(Named("page", facts.page));
  for (std::string& line : lines) line = Line(line, std::max(columns, 1));
  return lines;
}

}  // namespace palimpsest::tools
