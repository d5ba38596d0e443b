#include "tests/fuzz/guided/tiny_model.h"

#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <vector>

#include "common/model/decoder.h"
#include "common/tokenizer/byte_tokenizer.h"
#include "tests/fuzz/guided/target.h"

namespace palimpsest::fuzz {
namespace {

constexpr char kChatMl[] =
    "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + "
    "'<|im_end|>' + '\n'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' "
    "}}{% endif %}";

// Both versions; gone when the process ends by itself.
class Folders {
 public:
  Folders()
      : root_(std::filesystem::temp_directory_path().string() + "/palimpsest_fuzz_" +
              std::to_string(getpid())) {
    const std::vector<std::string> marks = {"<|im_start|>", "<|im_end|>"};
    for (const int version : {1, 2}) {
      const auto decoder = model::Decoder::Random(TinyConfig(), static_cast<uint64_t>(version),
                                                  model::DType::kFloat32);
      if (const absl::Status saved = decoder->Save(Of(version)); !saved.ok())
        Broken(saved.ToString());
      std::ofstream(Of(version) + "/tokenizer.json") << *ByteTokenizerJson(marks);
      std::ofstream(Of(version) + "/generation_config.json") << R"({"eos_token_id": 257})";
      std::ofstream(Of(version) + "/chat_template.jinja") << kChatMl;
    }
  }
  ~Folders() { std::filesystem::remove_all(root_); }
  std::string Of(int version) const { return root_ + "/v" + std::to_string(version); }

 private:
  const std::string root_;
};

}  // namespace

model::ModelConfig TinyConfig() {
  return {.layers = 2,
          .hidden = 16,
          .intermediate = 16,
          .heads = 4,
          .kv_heads = 2,
          .head_dim = 8,
          .vocab = 258,
          .max_position = 96};
}

context::Shape TinyShape() {
  return {.layers = TinyConfig().layers, .kv_heads = TinyConfig().kv_heads};
}

std::string TinyFolder(int version) {
  static const Folders folders;
  return folders.Of(version);
}

context::ContextPolicy TinyPolicy(int kind) {
  context::ContextPolicy policy{.reference_tokens = 8, .protect = 4};
  switch (kind % kTinyPolicies) {
    case 0:
      return {};
    case 1:
    case 2:
    case 3:
      policy.trigger = context::KvBudget{.budget = 32, .window = 16, .keep_ratio = 0.3};
      policy.method = static_cast<context::Method>(kind % kTinyPolicies);
      break;
    case 4:
      policy.trigger =
          context::KvBudget{.budget = 48, .window = 20, .keep_ratio = 0.3, .early = 0.6};
      break;
    case 5:
      policy.trigger = context::KvBudget{.budget = 24, .window = 9, .keep_ratio = 0.2};
      policy.parameters.reference_kind = context::ReferenceKind::kKeys;
      policy.stack = true;
      break;
    case 6:
      policy.trigger = context::Segments{.every = 10, .window = 8, .keep_ratio = 0.3};
      policy.method = context::Method::kEvict;
      break;
    case 7:
      policy.trigger = context::Segments{.every = 7, .window = 6, .keep_ratio = 0.5};
      policy.after_window = true;
      break;
    case 8:
      policy.trigger = context::Turns{.n_protect_turns = 1, .keep_ratio = 0.3};
      break;
    case 9:
      policy.trigger = context::Turns{.n_protect_turns = 0, .max_turns = 2, .keep_ratio = 0};
      policy.method = context::Method::kMarkovian;
      break;
    case 10:
      policy.trigger = context::Manual{.keep_ratio = 0.3};
      break;
    case 11:
      policy.trigger =
          context::KvBudget{.budget = 32, .window = 16, .keep_ratio = 0.3, .early = 0.4};
      policy.method = context::Method::kEvict;
      policy.parameters.chooser = context::Chooser::kAccumulated;
      return policy;
    case 12:
      policy.trigger = context::KvBudget{.budget = 24, .window = 9, .keep_ratio = 0.4};
      policy.parameters.chooser = context::Chooser::kCarriedMax;
      return policy;
    case 13:
      policy.trigger = context::Turns{.n_protect_turns = 1, .keep_ratio = 0.3};
      policy.method = context::Method::kEvict;
      policy.parameters.chooser = context::Chooser::kDiverse;
      return policy;
    default:
      policy.trigger = context::Manual{.keep_ratio = 0.5};
      policy.method = context::Method::kEvict;
      policy.parameters.chooser = context::Chooser::kRandom;
      return policy;
  }
  policy.parameters.chooser = context::DefaultChooser(policy.method);
  return policy;
}

}  // namespace palimpsest::fuzz
