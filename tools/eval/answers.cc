#include "tools/eval/answers.h"

#include <fcntl.h>
#include <sys/file.h>
#include <unistd.h>

#include <cerrno>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "absl/strings/str_format.h"
#include "common/weights/durable_file.h"

namespace palimpsest::tools::eval {
namespace {

using nlohmann::json;

constexpr int64_t kMaxSettings = 1 << 20;  // bytes

// FAILED_PRECONDITION when another process holds it; given back when this one ends.
absl::StatusOr<UniqueFd> OpenAlone(const std::string& path) {
  UniqueFd file(open(path.c_str(), O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (file.get() < 0) return weights::IoError(errno, "open", path);
  if (flock(file.get(), LOCK_EX | LOCK_NB) == 0) return file;
  return absl::FailedPreconditionError(
      absl::StrFormat("%s is being written by another evaluation", path));
}

absl::Status KeepSettings(const std::string& path, const Settings& settings) {
  Settings merged = settings;
  const absl::StatusOr<std::string> stored = weights::ReadSmallFile(path, kMaxSettings);
  if (!stored.ok() && !absl::IsNotFound(stored.status())) return stored.status();
  if (stored.ok()) {
    const json read = json::parse(*stored, nullptr, /*allow_exceptions=*/false);
    Settings before;
    for (const auto& [name, value] : read.items()) {
      if (!value.is_string()) return absl::DataLossError(path + " holds no settings");
      before[name] = value.get<std::string>();
    }
    const absl::StatusOr<Settings> both = MergeSettings(before, settings);
    if (!both.ok()) {
      return absl::FailedPreconditionError(
          absl::StrFormat("%s: %s", path, std::string(both.status().message())));
    }
    merged = *both;
  }
  return weights::WriteFileDurably(
      path, json(merged).dump(1, ' ', false, json::error_handler_t::replace) + "\n");
}

absl::StatusOr<std::map<AnswerKey, Answer>> ReadAnswers(const std::string& path, int file) {
  std::ifstream stream(path, std::ios::binary);
  std::stringstream whole;
  whole << stream.rdbuf();
  const std::string text = whole.str();
  std::map<AnswerKey, Answer> answers;
  size_t at = 0;
  for (int number = 1;; ++number) {
    const size_t end = text.find('\n', at);
    if (end == std::string::npos) break;
    absl::StatusOr<Answer> answer = FromLine(text.substr(at, end - at));
    if (!answer.ok()) {
      return absl::DataLossError(
          absl::StrFormat("%s:%d: %s", path, number, std::string(answer.status().message())));
    }
    const AnswerKey key = answer->key;
    answers[key] = *std::move(answer);
    at = end + 1;
  }
  if (at < text.size() && ftruncate(file, static_cast<off_t>(at)) != 0) {
    return weights::IoError(errno, "truncate", path);
  }
  return answers;
}

}  // namespace

std::string ToLine(const Answer& a) {
  const json line = {{"task", a.key.task},
                     {"split", a.key.split},
                     {"seed", a.key.seed},
                     {"index", a.key.index},
                     {"policy", a.key.policy},
                     {"sample", a.key.sample},
                     {"reward", a.reward},
                     {"reason", a.reason},
                     {"parts", a.parts},
                     {"text", a.text},
                     {"tags", a.tags},
                     {"finish", a.finish},
                     {"responses", a.responses},
                     {"prompt_tokens", a.prompt_tokens},
                     {"tokens", a.tokens},
                     {"events", a.events},
                     {"mean_slots", a.mean_slots},
                     {"peak_slots", a.peak_slots},
                     {"seconds", a.seconds}};
  return line.dump(-1, ' ', /*ensure_ascii=*/true, json::error_handler_t::replace);
}

// nlohmann's typed reads throw, so the whole is caught here, where the line is known to be ours.
absl::StatusOr<Answer> FromLine(const std::string& text) {
  try {
    const json line = json::parse(text);
    Answer a;
    line.at("task").get_to(a.key.task);
    line.at("split").get_to(a.key.split);
    line.at("seed").get_to(a.key.seed);
    line.at("index").get_to(a.key.index);
    line.at("policy").get_to(a.key.policy);
    line.at("sample").get_to(a.key.sample);
    line.at("reward").get_to(a.reward);
    line.at("reason").get_to(a.reason);
    if (line.contains("parts")) line.at("parts").get_to(a.parts);  // lines of before have none
    line.at("text").get_to(a.text);
    line.at("tags").get_to(a.tags);
    line.at("finish").get_to(a.finish);
    line.at("responses").get_to(a.responses);
    line.at("prompt_tokens").get_to(a.prompt_tokens);
    line.at("tokens").get_to(a.tokens);
    line.at("events").get_to(a.events);
    line.at("mean_slots").get_to(a.mean_slots);
    line.at("peak_slots").get_to(a.peak_slots);
    line.at("seconds").get_to(a.seconds);
    return a;
  } catch (const json::exception& error) {
    return absl::DataLossError(absl::StrFormat("is no answer: %s", error.what()));
  }
}

absl::StatusOr<std::unique_ptr<AnswerBook>> AnswerBook::Open(const std::string& folder,
                                                             const Settings& settings) {
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) return weights::IoError(error.value(), "make", folder);
  const std::string path = folder + "/answers.jsonl";
  ASSIGN_OR_RETURN(UniqueFd file, OpenAlone(path));
  RETURN_IF_ERROR(KeepSettings(folder + "/settings.json", settings));
  ASSIGN_OR_RETURN(auto answers, ReadAnswers(path, file.get()));
  return std::unique_ptr<AnswerBook>(new AnswerBook(path, std::move(file), std::move(answers)));
}

absl::Status AnswerBook::Append(const Answer& answer) {
  const std::string line = ToLine(answer) + "\n";
  const absl::MutexLock lock(&mu_);
  for (size_t at = 0; at < line.size();) {
    const ssize_t written = write(file_.get(), line.data() + at, line.size() - at);
    if (written < 0 && errno == EINTR) continue;
    if (written < 0) return weights::IoError(errno, "write", path_);
    at += static_cast<size_t>(written);
  }
  answers_[answer.key] = answer;
  return absl::OkStatus();
}

bool AnswerBook::Has(const AnswerKey& key) const {
  const absl::MutexLock lock(&mu_);
  return answers_.contains(key);
}

std::map<AnswerKey, Answer> AnswerBook::answers() const {
  const absl::MutexLock lock(&mu_);
  return answers_;
}

}  // namespace palimpsest::tools::eval
