#include "common/model/huge_pages.h"

#include <ATen/ATen.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>

namespace palimpsest::model {
namespace {

// kB of this process in huge pages.
int64_t HugeKilobytes() {
  std::ifstream file("/proc/self/smaps_rollup");
  for (std::string name; file >> name;) {
    int64_t value = 0;
    if (name == "AnonHugePages:" && file >> value) return value;
  }
  return -1;
}

// Do 64 MB of a tensor, all written, lie in huge pages? In a process that took no memory before;
// `setting` is what its user says, "" nothing.
bool TensorsAreHuge(const char* setting) {
  const std::string self = std::filesystem::read_symlink("/proc/self/exe");
  const std::string command = std::string(*setting ? "THP_MEM_ALLOC_ENABLE=" : "") + setting +
                              " HUGE_PAGES_CHILD=1 " + self +
                              " --gtest_filter=HugePagesTest.Child > /dev/null";
  return WEXITSTATUS(std::system(command.c_str())) == 0;
}

TEST(HugePagesTest, Child) {
  if (std::getenv("HUGE_PAGES_CHILD") == nullptr) return;
  UseHugePages();
  const int64_t before = HugeKilobytes();
  const at::Tensor tensor = at::ones({16 << 20});
  EXPECT_GT(HugeKilobytes(), before + (32 << 10));
}

TEST(HugePagesTest, TensorsLieInThemUnlessTheUserSaysOtherwise) {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  const std::string enabled((std::istreambuf_iterator<char>(file)), {});
  const bool given = enabled.find("[madvise]") != std::string::npos;
  const bool always = enabled.find("[always]") != std::string::npos;
  EXPECT_EQ(TensorsAreHuge(""), given || always) << enabled;
  EXPECT_EQ(TensorsAreHuge("0"), always) << enabled;
}

}  // namespace
}  // namespace palimpsest::model
