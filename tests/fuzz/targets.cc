#include "tests/fuzz/targets.h"

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <cstring>
#include <fstream>
#include <iterator>

#include "common/config/flags.h"
#include "common/config/run_sections.h"
#include "common/context/log.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "common/tokenizer/tokenizer.h"
#include "common/weights/manifest.h"
#include "common/weights/safetensors.h"
#include "common/wire/rollout.h"
#include "services/trainer/engine/checkpoint_state.h"
#include "tests/unit/common/wire/generate.h"

namespace palimpsest {
namespace {

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), {}};
}

std::vector<std::string> GoodSafetensors() {
  std::string tiny = R"({"x":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})";
  tiny.append((8 - tiny.size() % 8) % 8, ' ');
  const uint64_t size = tiny.size();
  return {ReadFile("tests/golden/weights/ours.safetensors"),
          std::string(reinterpret_cast<const char*>(&size), 8) + tiny + std::string(8, 'x')};
}

bool ReadSafetensors(const std::string& bytes) {
  // Memory of its own and aligned, so that a sanitizer sees where it ends.
  std::vector<uint64_t> words(bytes.size() / 8 + 1);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  const std::span<const std::byte> file = std::as_bytes(std::span(words)).first(bytes.size());
  const auto contents = weights::ParseSafetensors(file, "fuzzed");
  if (!contents.ok()) return false;
  for (const auto& [name, tensor] : contents->tensors) {
    EXPECT_EQ(weights::ByteSize(tensor.type, tensor.shape).value(),
              static_cast<int64_t>(tensor.bytes.size()));
    if (tensor.bytes.empty()) continue;
    EXPECT_GE(tensor.bytes.data(), file.data());
    EXPECT_LE(tensor.bytes.data() + tensor.bytes.size(), file.data() + file.size());
  }
  return true;
}

std::vector<std::string> GoodTokenizers() {
  return {*ByteTokenizerJson(std::vector<std::string>{"<|end|>", "<|begin|>"})};
}

bool ReadTokenizer(const std::string& bytes) {
  const auto tokenizer = Tokenizer::FromJson(bytes);
  if (!tokenizer.ok()) return false;
  const auto ids = (*tokenizer)->Encode("A text, 123 <|end|> \xff\xc3\xa9\n", true);
  if (ids.ok()) (*tokenizer)->Decode(*ids).status().IgnoreError();
  return true;
}

std::vector<std::string> GoodYaml() {
  return {ReadFile("deploy/configs/quickstart.yaml"), ReadFile("tests/integration/run/run.yaml"),
          "run: {name: &a x, folder: *a, seed: 7}\nmodel:\n  folder: \"quoted \\\\ text\"\n"};
}

struct Sections {
  RunSection run;
  ModelSection model;
};
void Bind(Binder& b, Sections& c) {
  b.Section("run", c.run);
  b.Section("model", c.model);
}

bool ReadYaml(const std::string& bytes) {
  const absl::StatusOr<Node> document = ParseYaml(bytes, "fuzzed");
  if (!document.ok()) return false;
  constexpr std::string_view kOthers[] = {"inference", "trainer", "orchestrator", "env"};
  Sections read;
  Binder binder;
  Bind(binder, read);
  if (!binder.Read(*document, "", kOthers).ok()) return false;
  const std::string printed = PrintConfig(read);
  Sections again;
  const absl::StatusOr<Node> reread = ParseYaml(printed, "printed");
  EXPECT_TRUE(reread.ok()) << reread.status();
  if (reread.ok()) {
    EXPECT_TRUE(Codec<Sections>::Read(*reread, "", again).ok());
    EXPECT_EQ(PrintConfig(again), printed);
  }
  return true;
}

const weights::ManifestFile kFile = {"model.safetensors", 12345, std::string(32, 'a')};

std::vector<std::string> GoodManifests() {
  weights::Manifest manifest{.version = PolicyVersion(42),
                             .parent = PolicyVersion(40),
                             .run = "quickstart",
                             .attempt = 3,
                             .source_step = 17,
                             .created = absl::FromUnixMillis(1'700'000'000'123),
                             .files = {{"config.json", 2, std::string(32, '0')}, kFile}};
  return {*weights::ToJson(manifest)};
}

bool ReadManifest(const std::string& bytes) {
  const auto manifest = weights::ManifestFromJson(bytes);
  if (!manifest.ok()) return false;
  const auto again = weights::ManifestFromJson(weights::ToJson(*manifest).value());
  EXPECT_EQ(again.value(), *manifest);
  return true;
}

std::vector<std::string> GoodCheckpoints() {
  trainer::CheckpointState state{.updates = 2, .files = {kFile}};
  for (int64_t step = 1; step <= 3; ++step) {
    trainer::StepResult result;
    result.step = step;
    result.batch_id = "batch-" + std::to_string(step);
    state.ledger.Add(result);
  }
  return {trainer::ToJson(state), trainer::ToJson(trainer::CheckpointState{})};
}

bool ReadCheckpoint(const std::string& bytes) {
  const auto state = trainer::CheckpointStateFromJson(bytes);
  if (!state.ok()) return false;
  const auto again = trainer::CheckpointStateFromJson(trainer::ToJson(*state));
  EXPECT_TRUE(again.ok()) << again.status();
  return true;
}

std::vector<std::string> GoodRollouts() {
  RandomStream stream(11);
  std::vector<std::string> good;
  for (int i = 0; i < 20; ++i) {
    good.push_back(wire::ToProto(wire::RandomRollout(stream)).SerializeAsString());
  }
  return good;
}

bool ReadRollout(const std::string& bytes) {
  const google::protobuf::LogSilencer silence;
  v1::Rollout message;
  if (!message.ParseFromString(bytes)) return false;
  const auto rollout = wire::FromProto(message);
  if (!rollout.ok()) return false;
  if (!rollout->events.empty()) {
    context::CheckLog(rollout->events.front().kept.shape(), rollout->tokens, rollout->events)
        .IgnoreError();
  }
  return true;
}

}  // namespace

const std::vector<FuzzTarget>& FuzzTargets() {
  static const std::vector<FuzzTarget> targets = {
      {"safetensors", GoodSafetensors, ReadSafetensors},
      {"tokenizer", GoodTokenizers, ReadTokenizer},
      {"yaml", GoodYaml, ReadYaml},
      {"manifest", GoodManifests, ReadManifest},
      {"checkpoint", GoodCheckpoints, ReadCheckpoint},
      {"rollout", GoodRollouts, ReadRollout},
  };
  return targets;
}

}  // namespace palimpsest
