#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <csignal>
#include <cstdlib>
#include <cstring>

#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "common/base/random.h"
#include "tests/fuzz/mutate.h"
#include "tests/fuzz/targets.h"

namespace palimpsest {
namespace {

constexpr int kMutations = 1500;  // in the gate, of each target
constexpr int64_t kFirstSeed = 1;
constexpr unsigned kPatience = 20;           // seconds for one of them
constexpr rlim_t kMemory = rlim_t{4} << 30;  // bytes of address space for all of it

// A sanitizer reserves more than any limit.
#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool kSanitized = true;
#else
constexpr bool kSanitized = false;
#endif

// What a crash, or a read that does not end, would otherwise not say.
char where[200] = "";
void TellWhere(int number) {
  (void)!write(STDERR_FILENO, where, strlen(where));
  signal(number, SIG_DFL);
  raise(number);
}

int64_t FromEnvironment(const char* name, int64_t otherwise) {
  const char* const text = std::getenv(name);
  return text == nullptr ? otherwise : std::atoll(text);
}

class FuzzTest : public ::testing::TestWithParam<FuzzTarget> {
 protected:
  void SetUp() override {
    for (const int number : {SIGSEGV, SIGABRT, SIGFPE, SIGBUS, SIGALRM}) {
      signal(number, TellWhere);
    }
    const rlimit most{kMemory, kMemory};
    if (!kSanitized) {
      ASSERT_EQ(setrlimit(RLIMIT_AS, &most), 0);
    }
  }
  void TearDown() override { alarm(0); }

  bool Read(const std::string& bytes) {
    alarm(kPatience);
    try {
      return GetParam().read(bytes);
    } catch (const std::exception& e) {
      ADD_FAILURE() << where << e.what();
      return false;
    }
  }
};

TEST_P(FuzzTest, WhatIsGoodIsAccepted) {
  for (const std::string& good : GetParam().good()) EXPECT_TRUE(GetParam().read(good));
}

// PALIMPSEST_FUZZ_SECONDS: as many as come in this time instead. PALIMPSEST_FUZZ_SEED: from there.
TEST_P(FuzzTest, WhatIsBrokenIsRefusedInPeace) {
  const FuzzTarget& target = GetParam();
  const std::vector<std::string> good = target.good();
  const absl::Duration time = absl::Seconds(FromEnvironment("PALIMPSEST_FUZZ_SECONDS", 0));
  const int64_t first = FromEnvironment("PALIMPSEST_FUZZ_SEED", kFirstSeed);
  const absl::Time until = absl::Now() + time;
  int64_t accepted = 0, seed = first;
  const auto more = [&] {
    return time > absl::ZeroDuration() ? absl::Now() < until : seed < first + kMutations;
  };
  for (; more() && !HasFailure(); ++seed) {
    absl::SNPrintF(where, sizeof(where), "fuzz: %s broke with PALIMPSEST_FUZZ_SEED=%d\n",
                   target.name, seed);
    RandomStream stream(MixSeed({Meaning(target.name), static_cast<uint64_t>(seed)}));
    const std::string broken = Mutate(stream, good);
    accepted += Read(broken);
    if (HasFailure()) ADD_FAILURE() << where;
  }
  RecordProperty("mutations", std::to_string(seed - first));
  EXPECT_GT(accepted, 0) << "the mutations are so rough that nothing behind the parser was reached";
  EXPECT_LT(accepted, (seed - first) * 9 / 10) << "the mutations hardly break anything";
}

INSTANTIATE_TEST_SUITE_P(Targets, FuzzTest, ::testing::ValuesIn(FuzzTargets()),
                         [](const auto& named) { return std::string(named.param.name); });

}  // namespace
}  // namespace palimpsest
