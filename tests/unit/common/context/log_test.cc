#include "common/context/log.h"

#include <gmock/gmock.h>

#include <cmath>
#include <fstream>
#include <limits>
#include <nlohmann/json.hpp>

#include "tests/unit/common/context/builders.h"

namespace palimpsest::context {
namespace {

using ::testing::StartsWith;
using Json = nlohmann::json;

constexpr int32_t kMin = std::numeric_limits<int32_t>::min();
constexpr int32_t kMax = std::numeric_limits<int32_t>::max();

struct Log {
  std::string name;
  Shape shape;
  std::vector<int32_t> tokens;
  std::vector<Event> events;
  std::vector<std::string> records;  // hex
};

Event EventFrom(const Json& json, Shape shape) {
  Event event;
  event.at = json["at"];
  event.window = {json["window"][0], json["window"][1]};
  event.method = *MethodFromName(json["method"].get<std::string>());
  event.parameters = {
      .mu = json["mu"],
      .lambda = json["lambda"],
      .log_lower = json["log_lower"],
      .log_upper = json["log_upper"],
      .chooser = *ChooserFromName(json["chooser"].get<std::string>()),
      .reference_kind = *ReferenceKindFromName(json["reference_kind"].get<std::string>()),
      .seed = json["seed"],
      .holdout_every = json["holdout_every"]};
  event.reference = {json["reference"][0], json["reference"][1]};
  event.kept = MakeKept(shape, json["kept"].get<std::vector<std::vector<int32_t>>>());
  event.digest = *Digest::FromHex(json["digest"].get<std::string>());
  return event;
}

std::vector<Log> Goldens() {
  std::ifstream file("tests/golden/context/digests.json");
  std::vector<Log> logs;
  for (const Json& json : Json::parse(file)) {
    Log log{.name = json["name"],
            .shape = {json["layers"], json["kv_heads"]},
            .tokens = json["tokens"],
            .events = {},
            .records = {}};
    for (const Json& event : json["events"]) {
      log.events.push_back(EventFrom(event, log.shape));
      log.records.push_back(event["record"]);
    }
    logs.push_back(std::move(log));
  }
  return logs;
}

std::string Hex(std::string_view bytes) {
  std::string out;
  for (unsigned char byte : bytes) {
    out += "0123456789abcdef"[byte >> 4];
    out += "0123456789abcdef"[byte & 15];
  }
  return out;
}

TEST(GoldenLogTest, RecordsAndDigestsAreThoseOfTheIndependentScript) {
  const auto logs = Goldens();
  ASSERT_EQ(logs.size(), 5u);
  for (const Log& log : logs) {
    std::optional<Digest> previous;
    int32_t previous_at = 0;
    for (size_t i = 0; i < log.events.size(); ++i) {
      const Event& event = log.events[i];
      EXPECT_EQ(Hex(CanonicalRecord(event)), log.records[i]) << log.name << " event " << i;
      const Digest digest = ChainDigest(previous, previous_at, log.tokens, event);
      EXPECT_EQ(digest.Hex(), event.digest->Hex()) << log.name << " event " << i;
      previous = digest;
      previous_at = event.at;
    }
    EXPECT_TRUE(CheckLog(log.shape, log.tokens, log.events).ok()) << log.name;
  }
}

TEST(GoldenLogTest, QualityAndDurationAreNoPartOfTheDigest) {
  Log log = Goldens()[1];
  log.events[0].quality.mass_error = 0.5;
  log.events[0].seconds = 3;
  EXPECT_TRUE(CheckLog(log.shape, log.tokens, log.events).ok());
}

TEST(CompleteDigestsTest, FillsWhatIsMissingAndRefusesWhatIsWrong) {
  for (const Log& log : Goldens()) {
    std::vector<Event> events = log.events;
    for (size_t i = 0; i < events.size(); i += 2) events[i].digest.reset();
    ASSERT_TRUE(CompleteDigests(log.tokens, events).ok());
    EXPECT_EQ(events, log.events);
    events.back().digest->bytes[15] ^= 1;
    EXPECT_THAT(std::string(CompleteDigests(log.tokens, events).message()),
                testing::HasSubstr("].digest="));
  }
  std::vector<Event> none;
  EXPECT_TRUE(CompleteDigests({}, none).ok());
}

// Each change of one field of event 1 of a good log, without digests, is refused with that name.
TEST(CheckLogTest, EachCorruptedFieldIsNamed) {
  Log good = Goldens()[1];
  for (Event& event : good.events) event.digest.reset();
  ASSERT_TRUE(CheckLog(good.shape, good.tokens, good.events).ok());
  const auto refused = [&](auto change, const char* field) {
    Log log = good;
    change(log.events[1]);
    const absl::Status status = CheckLog(log.shape, log.tokens, log.events);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << field;
    EXPECT_THAT(std::string(status.message()), StartsWith(std::string("events[1].") + field));
  };
  for (int32_t bad : {kMin, -1, 0, 40, 93, kMax}) {  // the log has 93 tokens
    refused([&](Event& e) { e.at = bad; }, "at=");
  }
  for (int32_t bad : {kMin, -1, 28, 29, kMax}) {
    refused([&](Event& e) { e.window.begin = bad; }, "window=");
  }
  for (int32_t bad : {4, 19}) refused([&](Event& e) { e.window.begin = bad; }, "window.begin=");
  for (int32_t bad : {kMin, 0, 3}) refused([&](Event& e) { e.window.end = bad; }, "window=");
  for (int32_t bad : {10, 42, kMax}) {
    refused([&](Event& e) { e.window.end = bad; }, "window.end=");
  }
  for (int bad : {0, 4, 255}) {
    refused([&](Event& e) { e.method = static_cast<Method>(bad); }, "method=");
  }
  refused([](Event& e) { e.method = Method::kEvict; }, "chooser=");
  for (int32_t bad : {kMin, -1, 41, kMax}) {
    refused([&](Event& e) { e.reference.begin = bad; }, "reference=");
  }
  refused([](Event& e) { e.reference.end = 42; }, "reference.end=");
  refused([](Event& e) { e.reference = {0, 0}; }, "reference=");
  refused([](Event& e) { e.reference = {0, kMax}; }, "reference.end=");
  refused([](Event& e) { e.parameters.mu = std::nan(""); }, "mu=");
  refused([](Event& e) { e.parameters.lambda = 0; }, "lambda=");
  refused([](Event& e) { e.parameters.log_lower = 1; }, "log_lower=");
  refused([](Event& e) { e.parameters.log_upper = -1; }, "log_upper=");
  refused([](Event& e) { e.parameters.chooser = Chooser::kRecent; }, "chooser=");
  refused([](Event& e) { e.parameters.reference_kind = ReferenceKind{0}; }, "reference_kind=");
  refused([](Event& e) { e.parameters.holdout_every = 1; }, "holdout_every=");
  refused([](Event& e) { e.kept = KeptPositions(); }, "kept");
  refused([](Event& e) { e.kept = KeptPositions({kMax, kMax}); }, "kept");
  refused([](Event& e) { e.digest.emplace(); }, "digest=");
}

TEST(CheckLogTest, AnyChangeOfARecordedFieldOrTokenBreaksTheDigest) {
  const Log good = Goldens()[1];
  const auto refused = [&](auto change) {
    Log log = good;
    change(log);
    EXPECT_THAT(std::string(CheckLog(log.shape, log.tokens, log.events).message()),
                StartsWith("events[0].digest="));
  };
  refused([](Log& log) { log.tokens[0] ^= 1; });
  refused([](Log& log) { log.tokens[39] ^= 1; });
  refused([](Log& log) { log.events[0].parameters.mu *= 1 + 1e-15; });
  refused([](Log& log) { log.events[0].parameters.lambda *= 2; });
  refused([](Log& log) { log.events[0].parameters.log_lower -= 1; });
  refused([](Log& log) { log.events[0].parameters.log_upper += 1; });
  refused([](Log& log) { log.events[0].parameters.chooser = Chooser::kRms; });
  refused([](Log& log) { log.events[0].parameters.reference_kind = ReferenceKind::kKeys; });
  refused([](Log& log) { log.events[0].parameters.seed -= 1; });
  refused([](Log& log) { log.events[0].parameters.holdout_every += 1; });
  refused([](Log& log) { log.events[0].reference.begin += 1; });
  refused([](Log& log) { log.events[0].reference.end += 1; });
  refused([](Log& log) { log.events[0].window.end += 1; });
  Log last = good;  // tokens from the last event on are no part of any digest
  last.tokens.back() ^= 1;
  EXPECT_TRUE(CheckLog(last.shape, last.tokens, last.events).ok());
}

TEST(CheckLogTest, AHostileShapeIsRefusedBeforeAnythingIsMade) {
  const Log log = Goldens()[0];
  for (Shape shape : {Shape{0, 0}, Shape{-1, -1}, Shape{kMax, kMax}, Shape{1, 2}}) {
    EXPECT_THAT(std::string(CheckLog(shape, log.tokens, log.events).message()),
                StartsWith("events[0].kept"));
  }
}

TEST(CheckLogTest, MethodsWithoutQueriesMustRecordTheEmptyRange) {
  Log log = Goldens()[2];
  for (Event& event : log.events) event.digest.reset();
  ASSERT_TRUE(CheckLog(log.shape, log.tokens, log.events).ok());
  log.events[1].reference = {0, 24};
  EXPECT_THAT(std::string(CheckLog(log.shape, log.tokens, log.events).message()),
              StartsWith("events[1].reference="));
}

TEST(CheckLogTest, AnEventNeedsATokenToStandBefore) {
  Log log = Goldens()[0];  // at = 5
  log.tokens.resize(6);
  EXPECT_TRUE(CheckLog(log.shape, log.tokens, log.events).ok());
  log.tokens.resize(5);
  EXPECT_THAT(std::string(CheckLog(log.shape, log.tokens, log.events).message()),
              StartsWith("events[0].at=5"));
}

}  // namespace
}  // namespace palimpsest::context
