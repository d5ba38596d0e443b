#pragma once

#include <concepts>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "common/base/clock.h"

namespace palimpsest {

enum class Severity { kDebug, kInfo, kWarning, kError };

// Who speaks. The log is the one thing that a process has only once; set this before threads start.
struct LogConfig {
  std::string role;
  std::string run;
  Severity level = Severity::kInfo;  // what is below is dropped
  Clock* clock = nullptr;            // nullptr: the system's
};
void SetLogConfig(const LogConfig& config);

// One key with its value; numbers and booleans stay what they are in the JSON.
class LogField {
 public:
  using Value = std::variant<bool, int64_t, double, std::string>;
  LogField(std::string_view field_key, bool v) : key(field_key), value(v) {}
  LogField(std::string_view field_key, std::integral auto v)
      : key(field_key), value(static_cast<int64_t>(v)) {}
  LogField(std::string_view field_key, double v) : key(field_key), value(v) {}
  LogField(std::string_view field_key, std::string_view v)
      : key(field_key), value(std::string(v)) {}
  LogField(std::string_view field_key, const std::string& v) : key(field_key), value(v) {}
  LogField(std::string_view field_key, const char* v) : key(field_key), value(std::string(v)) {}

  std::string key;
  Value value;
};

// One JSON object on one line of stderr: time, level, role, run, msg, then the fields. Any thread;
// lines are never mixed. Bytes that are no UTF-8 are replaced.
//   Log(Severity::kInfo, "weights published", {{"version", 42}, {"seconds", 1.5}});
void Log(Severity severity, std::string_view message, std::initializer_list<LogField> fields = {});

// "debug", "info", "warning", "error".
std::string_view SeverityName(Severity severity);

// While it lives, lines (without their newline) go to `sink` instead of stderr. For tests; one at a
// time.
class ScopedLogSink {
 public:
  explicit ScopedLogSink(std::function<void(const std::string&)> sink);
  ~ScopedLogSink();
  ScopedLogSink(const ScopedLogSink&) = delete;
  ScopedLogSink& operator=(const ScopedLogSink&) = delete;
};

}  // namespace palimpsest
