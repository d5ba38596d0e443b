#include "services/inference/http/api.h"

#include <unistd.h>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "services/inference/http/answer.h"
#include "services/inference/http/errors.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

constexpr std::string_view kModelsPath = "/v1/models/";
constexpr absl::Duration kLook = absl::Milliseconds(100);  // between two looks at the client

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string Event(const std::string& data) { return "data: " + data + "\n\n"; }

json Card(const std::string& model, const Engine& engine) {
  return {{"id", model},
          {"object", "model"},
          {"created", 0},
          {"owned_by", "palimpsest"},
          {"max_model_len", engine.model().max_position},
          {"policy_version", engine.version().value()}};
}

}  // namespace

// One request on its way. Whoever lets go of it leaves the generations, which are cancelled if
// nobody else listens.
struct OpenAiApi::Exchange {
  Exchange(Ask what, Answer::Heading heading, const Options& options, const Serving& serving)
      : ask(std::move(what)),
        inbox(options.reader_queue, options.too_slow),
        answer(std::move(heading), ask, serving.tokenizer()) {}
  ~Exchange() { inbox.Leave(); }

  // All prompts are accepted, or the first refusal.
  absl::Status Submit(const std::string& id, const Listen& listen, absl::Time deadline) {
    for (size_t i = 0; i < ask.prompts.size(); ++i) {
      v1::GenerateRequest& request = ask.prompts[i];
      request.set_request_id(ask.prompts.size() == 1 ? id : absl::StrFormat("%s-%d", id, i));
      RETURN_IF_ERROR(listen(request, deadline, inbox.AddPrompt()));
      RETURN_IF_ERROR(inbox.failure());
    }
    return absl::OkStatus();
  }

  // What a stream sends next: see HttpAnswer.
  std::optional<std::string> NextEvents() {
    if (over) return std::nullopt;
    const Inbox::Heard heard = inbox.Next(kLook);
    absl::Status failed = heard.end.value_or(absl::OkStatus());
    std::string events;
    if (heard.item.has_value()) {
      const auto chunks = answer.Hear(*heard.item);
      failed = chunks.status();
      if (chunks.ok()) {
        for (const json& chunk : *chunks) events += Event(Dump(chunk));
      }
    }
    over = heard.end.has_value() || !failed.ok();
    if (!failed.ok()) return Event(ErrorBody(failed));
    if (over && ask.include_usage) events += Event(Dump(answer.UsageChunk()));
    if (over) events += Event("[DONE]");
    return events;
  }

  absl::StatusOr<std::string> WholeAnswer(const std::function<bool()>& alive) {
    while (true) {
      const Inbox::Heard heard = inbox.Next(kLook);
      if (heard.end.has_value()) {
        RETURN_IF_ERROR(*heard.end);
        return Dump(answer.Whole());
      }
      if (heard.item.has_value()) RETURN_IF_ERROR(answer.Hear(*heard.item).status());
      if (!heard.item.has_value() && !alive()) return absl::CancelledError("the client is gone");
    }
  }

  Ask ask;
  Inbox inbox;
  Answer answer;
  bool over = false;  // of a stream: its last event was given
};

HttpAnswer ErrorAnswer(const absl::Status& status) {
  return {.status = HttpStatusOf(status),
          .body = ErrorBody(status),
          .try_again = absl::IsResourceExhausted(status) || absl::IsUnavailable(status)};
}

OpenAiApi::OpenAiApi(Options options, const Serving& serving, Clock& clock)
    : options_(std::move(options)),
      serving_(serving),
      clock_(clock),
      life_(MixSeed({static_cast<uint64_t>(absl::ToUnixNanos(clock.Now())),
                     static_cast<uint64_t>(getpid())})) {}

HttpAnswer OpenAiApi::ListModels(const HttpRequest&) const {
  const auto engine = serving_.Loaded();
  if (!engine.ok()) return ErrorAnswer(engine.status());
  const json list = {{"object", "list"}, {"data", json::array({Card(options_.model, **engine)})}};
  return {.body = Dump(list)};
}

HttpAnswer OpenAiApi::GetModel(const HttpRequest& request) const {
  const auto engine = serving_.Loaded();
  if (!engine.ok()) return ErrorAnswer(engine.status());
  if (const std::string name = request.path.substr(kModelsPath.size()); name != options_.model) {
    return ErrorAnswer(absl::NotFoundError(
        absl::StrFormat("model=%s: this server serves %s", name, options_.model)));
  }
  return {.body = Dump(Card(options_.model, **engine))};
}

HttpAnswer OpenAiApi::Generate(const HttpRequest& request, bool chat) {
  const auto exchange = Begin(request, chat);
  if (!exchange.ok()) return ErrorAnswer(InJsonNames(exchange.status(), chat));
  if ((*exchange)->ask.stream) {
    return {.content_type = "text/event-stream",
            .next_piece = [exchange = *exchange] { return exchange->NextEvents(); }};
  }
  const auto whole = (*exchange)->WholeAnswer(request.alive);
  if (!whole.ok()) return ErrorAnswer(whole.status());
  return {.body = *whole};
}

absl::StatusOr<std::shared_ptr<OpenAiApi::Exchange>> OpenAiApi::Begin(const HttpRequest& request,
                                                                      bool chat) {
  const uint64_t number = requests_.fetch_add(1);
  const uint64_t seed = MixSeed({life_, Meaning("seed"), number});
  ASSIGN_OR_RETURN(Ask ask,
                   chat ? ParseChat(request.body, seed) : ParseCompletion(request.body, seed));
  if (!ask.model.empty() && ask.model != options_.model) {
    return absl::NotFoundError(
        absl::StrFormat("model=%s: this server serves %s", ask.model, options_.model));
  }
  const absl::Time now = clock_.Now();
  const std::string id = absl::StrFormat("%s-%016x", chat ? "chatcmpl" : "cmpl",
                                         MixSeed({life_, Meaning("request"), number}));
  auto exchange = std::make_shared<Exchange>(
      std::move(ask), Answer::Heading{id, absl::ToUnixSeconds(now), options_.model}, options_,
      serving_);
  RETURN_IF_ERROR(exchange->Submit(id, options_.listen, now + options_.deadline));
  return exchange;
}

}  // namespace palimpsest::inference
