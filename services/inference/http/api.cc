#include "services/inference/http/api.h"

#include <unistd.h>

#include "absl/strings/str_format.h"
#include "common/base/random.h"
#include "services/inference/http/answer.h"
#include "services/inference/http/errors.h"

namespace palimpsest::inference {
namespace {

using nlohmann::json;

constexpr char kJson[] = "application/json";
constexpr std::string_view kModelsPath = "/v1/models/";
constexpr absl::Duration kLook = absl::Milliseconds(100);  // between two looks at the client

std::string Dump(const json& value) {
  return value.dump(-1, ' ', false, json::error_handler_t::replace);
}

std::string Event(const std::string& data) { return "data: " + data + "\n\n"; }

json Card(const std::string& name, const Upstream::Model& model) {
  return {{"id", name},
          {"object", "model"},
          {"created", 0},
          {"owned_by", "palimpsest"},
          {"max_model_len", model.max_position},
          {"policy_version", model.policy_version}};
}

}  // namespace

// One request on its way. Whoever lets go of it leaves the generations, which are cancelled if
// nobody else listens.
struct OpenAiApi::Exchange {
  Exchange(Ask what, Answer::Heading heading, const Options& options,
           std::shared_ptr<const Tokenizer> tokenizer)
      : ask(std::move(what)),
        inbox(options.reader_queue, options.too_slow),
        answer(std::move(heading), ask, std::move(tokenizer)) {}
  ~Exchange() { inbox.Leave(); }

  // All prompts are accepted, or the first refusal.
  absl::Status Submit(const std::string& id, Upstream& upstream, absl::Time deadline) {
    for (size_t i = 0; i < ask.prompts.size(); ++i) {
      v1::GenerateRequest& request = ask.prompts[i];
      request.set_request_id(ask.prompts.size() == 1 ? id : absl::StrFormat("%s-%d", id, i));
      RETURN_IF_ERROR(upstream.Generate(request, deadline, inbox.AddPrompt()));
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
          .type = kJson,
          .body = ErrorBody(status),
          .try_again = absl::IsResourceExhausted(status) || absl::IsUnavailable(status)};
}

OpenAiApi::OpenAiApi(Options options, Upstream& upstream, Clock& clock)
    : options_(std::move(options)),
      upstream_(upstream),
      clock_(clock),
      life_(MixSeed({static_cast<uint64_t>(absl::ToUnixNanos(clock.Now())),
                     static_cast<uint64_t>(getpid())})) {}

HttpAnswer OpenAiApi::ListModels(const HttpRequest&) const {
  const auto model = upstream_.model();
  if (!model.ok()) return ErrorAnswer(model.status());
  const json list = {{"object", "list"}, {"data", json::array({Card(options_.model, *model)})}};
  return {.type = kJson, .body = Dump(list)};
}

HttpAnswer OpenAiApi::GetModel(const HttpRequest& request) const {
  const auto model = upstream_.model();
  if (!model.ok()) return ErrorAnswer(model.status());
  if (const std::string name = request.path.substr(kModelsPath.size()); name != options_.model) {
    return ErrorAnswer(absl::NotFoundError(
        absl::StrFormat("model=%s: this server serves %s", name, options_.model)));
  }
  return {.type = kJson, .body = Dump(Card(options_.model, *model))};
}

HttpAnswer OpenAiApi::Generate(const HttpRequest& request, bool chat) {
  const auto exchange = Begin(request, chat);
  if (!exchange.ok()) return ErrorAnswer(InJsonNames(exchange.status(), chat));
  if ((*exchange)->ask.stream) {
    return {.type = "text/event-stream",
            .next_piece = [exchange = *exchange] { return exchange->NextEvents(); }};
  }
  const auto whole = (*exchange)->WholeAnswer(request.alive);
  if (!whole.ok()) return ErrorAnswer(whole.status());
  return {.type = kJson, .body = *whole};
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
  const std::shared_ptr<const Tokenizer> tokenizer = upstream_.tokenizer();
  if (ask.echo && tokenizer == nullptr) {
    RETURN_IF_ERROR(upstream_.model().status());
    return absl::InvalidArgumentError("echo: this server has no tokenizer");
  }
  const absl::Time now = clock_.Now();
  const std::string id = absl::StrFormat("%s-%016x", chat ? "chatcmpl" : "cmpl",
                                         MixSeed({life_, Meaning("request"), number}));
  auto exchange = std::make_shared<Exchange>(
      std::move(ask), Answer::Heading{id, absl::ToUnixSeconds(now), options_.model}, options_,
      tokenizer);
  RETURN_IF_ERROR(exchange->Submit(id, upstream_, now + options_.deadline));
  return exchange;
}

}  // namespace palimpsest::inference
