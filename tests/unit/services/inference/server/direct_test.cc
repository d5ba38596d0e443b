#include "tests/unit/services/inference/server/generate_contract.h"

namespace palimpsest::inference {

INSTANTIATE_TEST_SUITE_P(Direct, GenerateContract, ::testing::Values(FrontMaker(nullptr)));

}  // namespace palimpsest::inference
