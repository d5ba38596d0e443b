#include "common/config/binder.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "common/config/flags.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;

enum class Method { kNone, kAttentionMatching };

struct StoreConfig {
  std::string folder = "store";
  int64_t cache = 64 << 20;
  bool operator==(const StoreConfig&) const = default;
};

struct TaskConfig {
  std::string name;
  double weight = 1;
  bool operator==(const TaskConfig&) const = default;
};

struct EngineConfig {
  int max_batch_tokens = 8192;
  uint64_t seed = 1;
  double rate = 0.1;
  float scale = 0.3f;
  bool eager = false;
  absl::Duration wait = absl::Milliseconds(2);
  Method method = Method::kNone;
  std::optional<int> limit;
  std::vector<int> layers = {1, 2};
  std::map<std::string, double> shares;
  std::vector<TaskConfig> tasks;
  std::optional<StoreConfig> mirror;
  StoreConfig store;
  bool operator==(const EngineConfig&) const = default;
};

struct RunConfig {
  EngineConfig engine;
  bool operator==(const RunConfig&) const = default;
};

void Bind(Binder& b, StoreConfig& c) {
  b.Field("folder", c.folder, "where the weights lie");
  b.Bytes("cache", c.cache, "kept in memory");
}

void Bind(Binder& b, TaskConfig& c) {
  b.Field("name", c.name, "of the task");
  b.Field("weight", c.weight, "share of prompts");
}

void Bind(Binder& b, EngineConfig& c) {
  b.Field("max_batch_tokens", c.max_batch_tokens, "tokens per engine step");
  b.Field("seed", c.seed, "of the run");
  b.Field("rate", c.rate, "learning rate");
  b.Field("scale", c.scale, "of logits");
  b.Field("eager", c.eager, "skip the queue");
  b.Field("wait", c.wait, "before a batch starts");
  b.Enum("method", c.method,
         {{"none", Method::kNone}, {"attention_matching", Method::kAttentionMatching}},
         "compaction");
  b.Field("limit", c.limit, "sequences at once");
  b.Field("layers", c.layers, "that are compacted");
  b.Field("shares", c.shares, "by task");
  b.Field("tasks", c.tasks, "that are trained on");
  b.Field("mirror", c.mirror, "second store");
  b.Section("store", c.store, "where weights are found");
}

void Bind(Binder& b, RunConfig& c) { b.Section("engine", c.engine, "the engine of one daemon"); }

absl::Status Load(const std::string& text, RunConfig& config) {
  static constexpr std::string_view kOthers[] = {"engine", "trainer"};
  const absl::StatusOr<Node> node = ParseYaml(text, "run.yaml");
  if (!node.ok()) return node.status();
  Binder binder;
  Bind(binder, config);
  return binder.Read(*node, "", kOthers);
}

std::string ErrorOf(const std::string& text) {
  RunConfig config;
  return std::string(Load(text, config).message());
}

TEST(BinderTest, ReadsEveryKindOfField) {
  RunConfig config;
  const absl::Status status = Load(R"(
engine:
  max_batch_tokens: -5
  seed: 18446744073709551615
  rate: 1e-6
  scale: 2
  eager: true
  wait: 1m30s
  method: attention_matching
  limit: 7
  layers: [3]
  shares: {maths: 0.5, "two words": 2}
  tasks:
    - {name: knights, weight: 2}
    - {name: sorting}
  mirror: {cache: 3KiB}
  store:
    cache: 2GiB
)",
                                   config);
  ASSERT_TRUE(status.ok()) << status;
  EngineConfig want;
  want.max_batch_tokens = -5;
  want.seed = std::numeric_limits<uint64_t>::max();
  want.rate = 1e-6;
  want.scale = 2;
  want.eager = true;
  want.wait = absl::Seconds(90);
  want.method = Method::kAttentionMatching;
  want.limit = 7;
  want.layers = {3};
  want.shares = {{"maths", 0.5}, {"two words", 2}};
  want.tasks = {{"knights", 2}, {"sorting", 1}};
  want.mirror = StoreConfig{.folder = "store", .cache = 3 << 10};
  want.store.cache = int64_t{2} << 30;
  EXPECT_EQ(config.engine, want);
}

TEST(BinderTest, AbsentKeysKeepTheDefaults) {
  RunConfig config;
  ASSERT_TRUE(Load("engine:\n  store: {folder: other}\n", config).ok());
  RunConfig want;
  want.engine.store.folder = "other";
  EXPECT_EQ(config, want);
}

TEST(BinderTest, NullEmptiesAnOptionalAndNothingElse) {
  RunConfig config;
  config.engine.limit = 4;
  ASSERT_TRUE(Load("engine: {limit: null}", config).ok());
  EXPECT_EQ(config.engine.limit, std::nullopt);
  EXPECT_EQ(ErrorOf("engine:\n  seed:\n"),
            "run.yaml:2: engine.seed: expected an integer, found no value");
  EXPECT_EQ(ErrorOf("engine:\n"), "run.yaml:1: engine: expected a section, found no value");
}

TEST(BinderTest, UnknownKeysNamePlacePathAndTheLikelyWord) {
  EXPECT_EQ(ErrorOf("engine:\n  seed: 1\n  max_batch_tokenz: 1\n"),
            "run.yaml:3: engine.max_batch_tokenz: unknown key; did you mean \"max_batch_tokens\"?");
  EXPECT_EQ(ErrorOf("engine:\n  zebra_crossing: 1\n"),
            "run.yaml:2: engine.zebra_crossing: unknown key");
  EXPECT_THAT(ErrorOf("engine: {tasks: [{name: a}, {nam: b}]}"), HasSubstr("engine.tasks[1].nam"));
}

TEST(BinderTest, SectionsOfOtherDaemonsPassAndStrangersDoNot) {
  EXPECT_EQ(ErrorOf("trainer: {anything: 1}\n"), "");
  EXPECT_EQ(ErrorOf("trainor: {}\n"),
            "run.yaml:1: trainor: unknown key; did you mean \"trainer\"?");
}

TEST(BinderTest, DoubtfulValuesAreRefused) {
  for (const char* line : {"eager: yes",
                           "eager: True",
                           "eager: 1",
                           "eager: \"true\"",
                           "max_batch_tokens: 1.5",
                           "max_batch_tokens: 1e3",
                           "max_batch_tokens: 010",
                           "max_batch_tokens: 0x10",
                           "max_batch_tokens: \"5\"",
                           "max_batch_tokens: [5]",
                           "max_batch_tokens: 2147483648",
                           "max_batch_tokens: -2147483649",
                           "max_batch_tokens: 99999999999999999999",
                           "seed: -1",
                           "seed: 18446744073709551616",
                           "rate: .inf",
                           "rate: nan",
                           "rate: inf",
                           "rate: 1e999",
                           "rate: \"0.1\"",
                           "rate: 1,5",
                           "rate: 007",
                           "scale: 1e39",
                           "wait: 2",
                           "wait: 0",
                           "wait: inf",
                           "wait: 2 s",
                           "wait: \"2s\"",
                           "method: None",
                           "method: [none]",
                           "layers: 3",
                           "layers: [1, x]",
                           "shares: [1]",
                           "store: 5",
                           "store: {cache: 64}",
                           "store: {cache: 64MB}",
                           "store: {cache: 1.5GiB}",
                           "store: {cache: -1B}",
                           "store: {cache: 9007199254740992KiB}",
                           "store: {folder: [a]}",
                           "store: {folder: }"}) {
    const std::string error = ErrorOf("engine:\n  " + std::string(line) + "\n");
    EXPECT_THAT(error, HasSubstr("run.yaml:2: engine.")) << line;
  }
}

TEST(BinderTest, MessagesSayWhatWasExpected) {
  EXPECT_EQ(ErrorOf("engine: {max_batch_tokens: \"5\"}"),
            "run.yaml:1: engine.max_batch_tokens: expected an integer, found the text \"5\"");
  EXPECT_THAT(ErrorOf("engine: {method: attention_macthing}"),
              HasSubstr("is not one of none, attention_matching; did you mean "
                        "\"attention_matching\"?"));
}

TEST(BinderTest, PrintedConfigReadsBackToTheSameValue) {
  RunConfig config;
  config.engine.rate = 0.1 + 0.2;
  config.engine.scale = 1e-7f;
  config.engine.limit = 3;
  config.engine.method = Method::kAttentionMatching;
  config.engine.wait = absl::Microseconds(1500);
  config.engine.layers = {};
  config.engine.shares = {{"true", 1}, {"a: b", 0.25}};
  config.engine.tasks = {{"yes", 1}, {"", 2}, {"multi\nline \"quoted\" \\ # é\x01", 3}, {"5", 4}};
  config.engine.mirror = StoreConfig{.folder = "~", .cache = 0};
  config.engine.store = {.folder = "/data/a-b_c.d", .cache = 1023};
  const std::string text = PrintConfig(config);
  RunConfig again;
  const absl::Status status = Load(text, again);
  ASSERT_TRUE(status.ok()) << status << "\n" << text;
  EXPECT_EQ(again, config) << text;
}

TEST(BinderTest, PrintedConfigCarriesTheDocs) {
  const std::string text = PrintConfig(RunConfig());
  EXPECT_THAT(text, HasSubstr("# the engine of one daemon\nengine:\n"));
  EXPECT_THAT(text, HasSubstr("  max_batch_tokens: 8192  # tokens per engine step\n"));
  EXPECT_THAT(text, HasSubstr("  method: none  # compaction (one of: none, attention_matching)\n"));
  EXPECT_THAT(text, HasSubstr("    cache: 64MiB  # kept in memory\n"));
  EXPECT_THAT(text, HasSubstr("  layers: [1, 2]  # that are compacted\n"));
}

struct Careless {
  int value = 0;
};
void Bind(Binder& b, Careless& c) {
  b.Field("value", c.value, "first");
  b.Field("value", c.value, "again");
}

TEST(BinderTest, AKeyBoundTwiceIsToldAsABug) {
  Careless config;
  EXPECT_EQ(Codec<Careless>::Read(*ParseYaml("", "x"), "here", config).code(),
            absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace palimpsest
