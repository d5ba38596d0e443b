#include "services/inference/server/service.h"

#include "absl/strings/str_format.h"
#include "common/rpc/status.h"
#include "common/telemetry/log.h"
#include "services/inference/server/request.h"
#include "services/inference/server/stream_writer.h"

namespace palimpsest::inference {
namespace {

constexpr int kMaxDetokenize = 1 << 20;   // ids of one call
constexpr size_t kMaxTokenize = 4 << 20;  // bytes of one call

v1::ServingState ToProto(ServingPhase phase) {
  switch (phase) {
    case ServingPhase::kStarting:
      return v1::SERVING_STATE_STARTING;
    case ServingPhase::kServing:
      return v1::SERVING_STATE_SERVING;
    case ServingPhase::kPaused:
      return v1::SERVING_STATE_PAUSED;
    case ServingPhase::kDraining:
      return v1::SERVING_STATE_DRAINING;
  }
  return v1::SERVING_STATE_UNSPECIFIED;
}

v1::ModelShape ToProto(const ModelInfo& model) {
  v1::ModelShape proto;
  proto.set_architecture(model.architecture);
  proto.set_layers(model.layers);
  proto.set_heads(model.heads);
  proto.set_kv_heads(model.kv_heads);
  proto.set_head_dim(model.head_dim);
  proto.set_hidden(model.hidden);
  proto.set_vocab(model.vocab);
  proto.set_max_position(model.max_position);
  proto.set_dtype(model.dtype);
  proto.mutable_stop_ids()->Assign(model.stop_ids.begin(), model.stop_ids.end());
  return proto;
}

v1::InferenceLimits ToProto(const Limits& limits) {
  v1::InferenceLimits proto;
  proto.set_max_running(limits.max_running);
  proto.set_max_queued(limits.max_queued);
  proto.set_max_samples(limits.max_samples);
  proto.set_kv_pool_bytes(limits.kv_pool_bytes);
  proto.set_max_sessions(limits.max_sessions);
  proto.set_max_top_logprobs(rl::kMaxAlternatives);
  return proto;
}

v1::InferenceLoad ToProto(const Load& load) {
  v1::InferenceLoad proto;
  proto.set_running(load.running);
  proto.set_queued(load.queued);
  proto.set_sessions(load.sessions);
  proto.set_kv_bytes_free(load.kv_bytes_free);
  return proto;
}

absl::StatusOr<WeightsMode> ModeOf(v1::WeightsMode mode) {
  switch (mode) {
    case v1::WEIGHTS_MODE_KEEP:
      return WeightsMode::kKeep;
    case v1::WEIGHTS_MODE_FINISH:
      return WeightsMode::kFinish;
    case v1::WEIGHTS_MODE_RECOMPUTE:
      return WeightsMode::kRecompute;
    default:
      return absl::InvalidArgumentError(
          absl::StrFormat("mode=%d: expected KEEP, RECOMPUTE or FINISH", static_cast<int>(mode)));
  }
}

absl::StatusOr<Announcement> AnnouncementOf(const v1::WeightsAnnouncement& proto) {
  if (proto.version() < 1) {
    return absl::InvalidArgumentError(
        absl::StrFormat("weights.version=%d is not >= 1", proto.version()));
  }
  Announcement announcement{.version = PolicyVersion(proto.version()),
                            .manifest_digest = proto.manifest_digest()};
  // Without a run the announcement names a version and nothing else.
  if (!proto.run().empty()) {
    Announcement::Source source{
        .run = proto.run(), .attempt = proto.attempt(), .source_step = proto.source_step()};
    if (proto.has_parent_version()) source.parent = PolicyVersion(proto.parent_version());
    announcement.source = std::move(source);
  } else if (proto.has_parent_version() || proto.source_step() != 0 || proto.attempt() != 0) {
    return absl::InvalidArgumentError(
        "weights.run is empty, but parent_version, source_step or attempt are given");
  }
  return announcement;
}

}  // namespace

InferenceServer::InferenceServer(Options options, Serving& serving, Telemetry& telemetry,
                                 Clock& clock)
    : options_(std::move(options)),
      serving_(serving),
      telemetry_(telemetry),
      generations_({.remember = options_.remember,
                    .remember_bytes = options_.remember_bytes,
                    .cancel =
                        [this](const std::string& id) {
                          if (const auto engine = serving_.engine()) engine->Cancel(id);
                        },
                    .sample_ended =
                        [this](rl::Outcome outcome) {
                          telemetry_.SampleEnded(outcome);
                          ++(outcome == rl::Outcome::kOk ? ended_ok_ : ended_otherwise_);
                        }},
                   clock) {}

grpc::ServerWriteReactor<v1::GenerateResponse>* InferenceServer::Generate(
    grpc::CallbackServerContext* context, const v1::GenerateRequest* request) {
  const std::shared_ptr<StreamWriter> writer =
      StreamWriter::Create(options_.reader_queue, [this] { telemetry_.ReaderTooSlow(); });
  const absl::Status status = Listen(*request, DeadlineOf(*context), writer);
  if (!status.ok()) writer->End(status);
  return writer.get();
}

absl::Status InferenceServer::Listen(const v1::GenerateRequest& request, absl::Time deadline,
                                     const std::shared_ptr<GenerationReader>& reader) {
  RETURN_IF_ERROR(CheckRequestId(request.request_id()));
  RETURN_IF_ERROR(serving_.Loaded().status());
  const auto parse = [&](const Engine& engine) {
    return ParseGenerate(request, engine, serving_.tokenizer().get(), serving_.chat().get(),
                         deadline);
  };
  return ListenTo(generations_.Join(request), parse, reader);
}

absl::Status InferenceServer::ListenTo(const absl::StatusOr<Generations::Joined>& joined,
                                       const Parse& parse,
                                       const std::shared_ptr<GenerationReader>& reader) {
  RETURN_IF_ERROR(joined.status());
  RETURN_IF_ERROR(joined->generation->Attach(reader));
  reader->Listen(joined->generation);
  if (joined->created) Begin(joined->generation, parse);
  return absl::OkStatus();
}

void InferenceServer::Begin(const std::shared_ptr<Generation>& generation, const Parse& parse) {
  PolicyVersion version;
  const auto submit = [&]() -> absl::StatusOr<std::vector<int32_t>> {
    ASSIGN_OR_RETURN(const std::shared_ptr<Engine> engine, serving_.Admit());
    version = engine->version();
    ASSIGN_OR_RETURN(GenerationRequest parsed, parse(*engine));
    std::vector<int32_t> prompt = parsed.prompt;
    RETURN_IF_ERROR(engine->Submit(std::move(parsed), generation));
    return prompt;
  };
  const absl::StatusOr<std::vector<int32_t>> prompt = submit();
  if (prompt.ok()) {
    generation->Accept(*prompt, version);
  } else {
    generations_.Forget(*generation);
    generation->Refuse(prompt.status());
  }
}

grpc::Status InferenceServer::GetServerInfo(grpc::ServerContext*,
                                            const v1::InferenceServiceGetServerInfoRequest* request,
                                            v1::InferenceServiceGetServerInfoResponse* response) {
  if (request->revision() != v1::CONTRACT_REVISION_CURRENT) {
    return ToGrpc(absl::FailedPreconditionError(
        absl::StrFormat("revision=%d: this server speaks revision %d", request->revision(),
                        static_cast<int>(v1::CONTRACT_REVISION_CURRENT))));
  }
  *response->mutable_server() = options_.info;
  response->set_state(ToProto(serving_.phase()));
  const std::shared_ptr<Engine> engine = serving_.engine();
  if (engine == nullptr) return grpc::Status::OK;
  *response->mutable_model() = ToProto(engine->model());
  *response->mutable_limits() = ToProto(engine->limits());
  *response->mutable_load() = ToProto(engine->load());
  response->set_policy_version(engine->version().value());
  response->set_has_tokenizer(serving_.tokenizer() != nullptr);
  return grpc::Status::OK;
}

absl::StatusOr<ScoreResult> InferenceServer::ScoreNow(const v1::ScoreRequest& request) {
  ASSIGN_OR_RETURN(const std::shared_ptr<Engine> engine, serving_.Admit());
  ASSIGN_OR_RETURN(const ScoreRequest parsed, ParseScore(request, *engine));
  return engine->Score(parsed);
}

grpc::Status InferenceServer::Score(grpc::ServerContext*, const v1::ScoreRequest* request,
                                    v1::ScoreResponse* response) {
  const int others = scores_.fetch_add(1);
  const absl::StatusOr<ScoreResult> result =
      others < options_.max_scores ? ScoreNow(*request)
                                   : absl::ResourceExhaustedError(absl::StrFormat(
                                         "%d Score calls run already, inference.max_scores=%d",
                                         others, options_.max_scores));
  scores_.fetch_sub(1);
  if (!result.ok()) return ToGrpc(result.status());
  response->mutable_logprobs()->Assign(result->logprobs.begin(), result->logprobs.end());
  for (const Alternatives& top : result->top) *response->add_top_logprobs() = ToProto(top);
  response->set_policy_version(result->version.value());
  for (const context::Event& event : result->events) {
    response->add_digests(event.digest.has_value() ? event.digest->Hex() : "");
  }
  return grpc::Status::OK;
}

grpc::Status InferenceServer::Tokenize(grpc::ServerContext*, const v1::TokenizeRequest* request,
                                       v1::TokenizeResponse* response) {
  if (const auto engine = serving_.Loaded(); !engine.ok()) return ToGrpc(engine.status());
  const std::shared_ptr<const Tokenizer> tokenizer = serving_.tokenizer();
  if (const size_t bytes = request->ByteSizeLong(); bytes > kMaxTokenize) {
    return ToGrpc(absl::InvalidArgumentError(
        absl::StrFormat("input: %d bytes, at most %d", bytes, kMaxTokenize)));
  }
  if (request->has_chat()) {
    if (request->add_special_tokens()) {
      return ToGrpc(absl::InvalidArgumentError("add_special_tokens=true: only with text"));
    }
    const auto ids = EncodeChat("chat", request->chat(), tokenizer.get(), serving_.chat().get());
    if (!ids.ok()) return ToGrpc(ids.status());
    response->mutable_ids()->Assign(ids->begin(), ids->end());
    return grpc::Status::OK;
  }
  if (!request->has_text()) {
    return ToGrpc(absl::InvalidArgumentError("input: neither text nor chat is set"));
  }
  if (tokenizer == nullptr) {
    return ToGrpc(absl::FailedPreconditionError("text: the model has no tokenizer"));
  }
  const auto ids = tokenizer->Encode(request->text(), request->add_special_tokens());
  if (!ids.ok()) return ToGrpc(ids.status());
  response->mutable_ids()->Assign(ids->begin(), ids->end());
  return grpc::Status::OK;
}

grpc::Status InferenceServer::Detokenize(grpc::ServerContext*, const v1::DetokenizeRequest* request,
                                         v1::DetokenizeResponse* response) {
  if (const auto engine = serving_.Loaded(); !engine.ok()) return ToGrpc(engine.status());
  const std::shared_ptr<const Tokenizer> tokenizer = serving_.tokenizer();
  if (tokenizer == nullptr) {
    return ToGrpc(absl::FailedPreconditionError("ids: the model has no tokenizer"));
  }
  if (request->ids_size() > kMaxDetokenize) {
    return ToGrpc(absl::InvalidArgumentError(
        absl::StrFormat("ids: %d of them, at most %d", request->ids_size(), kMaxDetokenize)));
  }
  const std::vector<int32_t> ids(request->ids().begin(), request->ids().end());
  const auto text = tokenizer->Decode(ids, request->skip_special_tokens());
  if (!text.ok()) return ToGrpc(text.status());
  response->set_text(*text);
  return grpc::Status::OK;
}

grpc::Status InferenceServer::Pause(grpc::ServerContext*, const v1::InferenceServicePauseRequest*,
                                    v1::InferenceServicePauseResponse* response) {
  if (const absl::Status status = serving_.Pause(); !status.ok()) return ToGrpc(status);
  response->set_running(serving_.engine()->load().running);
  return grpc::Status::OK;
}

grpc::Status InferenceServer::Resume(grpc::ServerContext*, const v1::InferenceServiceResumeRequest*,
                                     v1::InferenceServiceResumeResponse*) {
  return ToGrpc(serving_.Resume());
}

grpc::Status InferenceServer::Drain(grpc::ServerContext*,
                                    const v1::InferenceServiceDrainRequest* request,
                                    v1::InferenceServiceDrainResponse* response) {
  const absl::Duration grace = absl::Seconds(request->grace_seconds());
  if (!(request->grace_seconds() >= 0) || grace > absl::Hours(24)) {
    return ToGrpc(absl::InvalidArgumentError(
        absl::StrFormat("grace_seconds=%g is outside of [0, 86400]", request->grace_seconds())));
  }
  const int ok = ended_ok_, otherwise = ended_otherwise_;
  serving_.StartDraining();
  if (const auto engine = serving_.engine()) engine->Drain(grace);
  response->set_finished(ended_ok_ - ok);
  response->set_cancelled(ended_otherwise_ - otherwise);
  options_.drained();
  return grpc::Status::OK;
}

grpc::Status InferenceServer::AbortAll(grpc::ServerContext*, const v1::AbortAllRequest* request,
                                       v1::AbortAllResponse* response) {
  const auto engine = serving_.Loaded();
  if (!engine.ok()) return ToGrpc(engine.status());
  response->set_aborted((*engine)->AbortAll(request->client(), request->reason()));
  Log(Severity::kInfo, "samples aborted",
      {{"client", request->client()},
       {"reason", request->reason()},
       {"samples", response->aborted()}});
  return grpc::Status::OK;
}

grpc::Status InferenceServer::UpdateWeights(grpc::ServerContext* context,
                                            const v1::UpdateWeightsRequest* request,
                                            v1::UpdateWeightsResponse* response) {
  const auto announcement = AnnouncementOf(request->weights());
  if (!announcement.ok()) return ToGrpc(announcement.status());
  const auto mode = ModeOf(request->mode());
  if (!mode.ok()) return ToGrpc(mode.status());
  const auto result = options_.apply_weights(*announcement, *mode, DeadlineOf(*context));
  if (!result.ok()) return ToGrpc(result.status());
  response->set_policy_version(result->version.value());
  response->set_load_seconds(result->load_seconds);
  response->set_flip_seconds(result->flip_seconds);
  response->set_already_live(result->already_live);
  return grpc::Status::OK;
}

}  // namespace palimpsest::inference
