#pragma once

#include <atomic>
#include <functional>
#include <memory>
#include <string>

#include "common/base/clock.h"
#include "common/http/message.h"
#include "services/inference/http/upstream.h"

namespace palimpsest::inference {

// The paths of the OpenAI API over one model, without a socket. Any thread; a request holds its
// thread until its answer is whole or its client gone.
class OpenAiApi {
 public:
  struct Options {
    std::string model;        // the name that clients know it by
    absl::Duration deadline;  // of one request
    int reader_queue = 1;     // streamed messages that a slow reader may be behind
    std::function<void()> too_slow;
  };
  // `upstream` and `clock` outlive it, and everything that it answered.
  OpenAiApi(Options options, Upstream& upstream, Clock& clock);

  HttpAnswer ListModels(const HttpRequest& request) const;
  HttpAnswer GetModel(const HttpRequest& request) const;  // /v1/models/NAME
  HttpAnswer Complete(const HttpRequest& request) { return Generate(request, false); }
  HttpAnswer Chat(const HttpRequest& request) { return Generate(request, true); }

 private:
  struct Exchange;

  HttpAnswer Generate(const HttpRequest& request, bool chat);
  absl::StatusOr<std::shared_ptr<Exchange>> Begin(const HttpRequest& request, bool chat);

  const Options options_;
  Upstream& upstream_;
  Clock& clock_;
  const uint64_t life_;  // tells this life of the door from others
  std::atomic<uint64_t> requests_{0};
};

// The answer to what was refused or has failed.
HttpAnswer ErrorAnswer(const absl::Status& status);

}  // namespace palimpsest::inference
