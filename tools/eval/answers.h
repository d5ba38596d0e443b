#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/base/thread_annotations.h"
#include "absl/synchronization/mutex.h"
#include "common/base/unique_fd.h"
#include "tools/eval/plan.h"

namespace palimpsest::tools::eval {

// What became of one question, judged.
struct Answer {
  AnswerKey key;
  double reward = 0;                         // finite
  std::string reason;                        // of the environment
  std::map<std::string, double> parts = {};  // of the reward, by name
  std::string text;  // of the model, cut at a stop string; of several turns: all behind the prompt
  std::vector<std::string> tags;  // of the prompt
  std::string finish;             // stop or length
  // Turns of an episode, attempts of an aggregation; the costs below are those of all. 0: the model
  // was not asked, as there was no room for a token.
  int32_t responses = 0;
  int32_t prompt_tokens = 0;
  int32_t tokens = 0;  // behind the prompt, injected ones too
  int32_t events = 0;
  double mean_slots = 0;   // live slots of the fullest head when a token was drawn, mean over them
  int32_t peak_slots = 0;  // the most of them
  double seconds = 0;      // of responses, from acceptance to the last token, as the server says
  bool operator==(const Answer&) const = default;
};

// A line of answers.jsonl, without its end, and back.
std::string ToLine(const Answer& answer);
absl::StatusOr<Answer> FromLine(const std::string& line);

// FOLDER/answers.jsonl, which grows by a line per answer, and FOLDER/settings.json. Any thread.
class AnswerBook {
 public:
  // Makes the folder where there is none. Reads what is there; a last line that a killed process
  // left half written is cut off. FAILED_PRECONDITION when the settings differ, naming the first
  // difference, or when another process writes here.
  static absl::StatusOr<std::unique_ptr<AnswerBook>> Open(const std::string& folder,
                                                          const Settings& settings);

  absl::Status Append(const Answer& answer);  // on the disk when it returns, but for a power cut
  bool Has(const AnswerKey& key) const;
  std::map<AnswerKey, Answer> answers() const;

 private:
  AnswerBook(std::string path, UniqueFd file, std::map<AnswerKey, Answer> answers)
      : path_(std::move(path)), file_(std::move(file)), answers_(std::move(answers)) {}

  const std::string path_;
  mutable absl::Mutex mu_;
  UniqueFd file_ ABSL_GUARDED_BY(mu_);
  std::map<AnswerKey, Answer> answers_ ABSL_GUARDED_BY(mu_);
};

}  // namespace palimpsest::tools::eval
