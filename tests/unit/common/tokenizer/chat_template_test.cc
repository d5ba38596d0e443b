#include "common/tokenizer/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>

#include "common/tokenizer/byte_tokenizer.h"
#include "tests/unit/common/weights/scratch_folder.h"

namespace palimpsest {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;
using Json = nlohmann::json;

const std::string kGolden = "tests/golden/tokenizer/";
constexpr const char* kBos = "<|begin_of_text|>";

const Json& Golden() {
  static const Json* const golden = new Json(Json::parse(std::ifstream(kGolden + "chat.json")));
  return *golden;
}

std::string TemplateText(const std::string& name) {
  return weights::Read(kGolden + "chat/" + name + ".jinja");
}

Chat ChatOf(const Json& row) {
  Chat chat{.add_generation_prompt = row["prompt"]};
  for (const Json& m : row["messages"]) {
    ChatMessage message{m["role"], m["content"]};
    if (m.contains("reasoning_content")) message.reasoning_content = m["reasoning_content"];
    chat.messages.push_back(message);
  }
  if (row.contains("thinking")) chat.enable_thinking = row["thinking"].get<bool>();
  chat.date_string = row.value("date", "");
  return chat;
}

std::unique_ptr<const Tokenizer> GoldenTokenizer(bool llama) {
  if (!llama) return *Tokenizer::Load(kGolden + "qwen2");
  Json file = Json::parse(std::ifstream(kGolden + "llama3/tokenizer.json"));
  Json token = file["added_tokens"].back();
  int64_t next = 0;
  for (const auto& [text, id] : file["model"]["vocab"].items()) {
    next = std::max<int64_t>(next, id.get<int64_t>() + 1);
  }
  for (const Json& added : file["added_tokens"]) {
    next = std::max<int64_t>(next, added["id"].get<int64_t>() + 1);
  }
  for (const char* text : {"<|start_header_id|>", "<|end_header_id|>"}) {
    token["content"] = text;
    token["id"] = next++;
    file["added_tokens"].push_back(token);
  }
  return *Tokenizer::FromJson(file.dump());
}

TEST(ChatGoldenTest, EveryConversationIsRenderedAsTransformersRendersIt) {
  std::map<std::string, int> seen;
  for (const Json& row : Golden()["cases"]) {
    const std::string name = row["template"];
    const auto chat_template = ChatTemplate::FromText(TemplateText(name), kBos);
    ASSERT_TRUE(chat_template.ok()) << name << chat_template.status();
    const auto text = chat_template->Render(ChatOf(row));
    ASSERT_TRUE(text.ok()) << text.status() << row.dump();
    EXPECT_EQ(*text, row["text"].get<std::string>()) << row.dump();
    ++seen[name];
  }
  EXPECT_EQ(seen.size(), 10u);
  for (const auto& [name, count] : seen) EXPECT_GE(count, 35) << name;
}

TEST(ChatGoldenTest, TheIdsAreThoseOfTransformersAlsoWhereAContentSpellsASpecialToken) {
  const auto im = GoldenTokenizer(false), llama = GoldenTokenizer(true);
  int seen = 0, spelled = 0;
  for (const Json& row : Golden()["cases"]) {
    if (!row.contains("ids")) continue;
    const std::string name = row["template"];
    const bool is_llama = name.starts_with("llama");
    const auto chat_template = ChatTemplate::FromText(TemplateText(name), kBos);
    const auto ids = chat_template->Encode(ChatOf(row), is_llama ? *llama : *im);
    ASSERT_TRUE(ids.ok()) << ids.status();
    EXPECT_EQ(*ids, row["ids"].get<std::vector<int32_t>>()) << row.dump();
    ++seen;
    for (const Json& m : row["messages"]) {
      spelled += m["content"].get<std::string>().find("<|") != std::string::npos;
    }
  }
  EXPECT_GE(seen, 90);
  EXPECT_GE(spelled, 5);
}

// Negative control of recognition: a template that renders anything else is refused.
TEST(ChatRecognitionTest, AChangeThatChangesWhatIsRenderedIsRefused) {
  int seen = 0;
  for (const Json& row : Golden()["mutants"]) {
    std::string text = TemplateText(row["template"]);
    text.replace(row["at"], row["delete"], row["insert"].get<std::string>());
    const absl::Status status = ChatTemplate::FromText(text, kBos).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << row.dump();
    ++seen;
  }
  EXPECT_GE(seen, 800);
}

TEST(ChatRecognitionTest, SpellingCommentsLineEndsAndToolsDoNotMatter) {
  const auto name = [](const std::string& text) {
    const auto known = RecogniseTemplate(text);
    return known.ok() ? std::string(known->name) : std::string(known.status().message());
  };
  std::string text = TemplateText("qwen2_5");
  EXPECT_EQ(name(text), "Qwen2.5");
  const auto replace = [](std::string in, const std::string& from, const std::string& to) {
    for (size_t at = 0; (at = in.find(from, at)) != std::string::npos; at += to.size()) {
      in.replace(at, from.size(), to);
    }
    return in;
  };
  EXPECT_EQ(name(replace(text, "\n", "\r\n")), "Qwen2.5");
  EXPECT_EQ(name(replace(text, "message.role", "message['role']")), "Qwen2.5");
  EXPECT_EQ(name(replace(text, "{%- if", "{#- why -#}\n  {%- if")), "Qwen2.5");
  EXPECT_EQ(name(replace(text, "Functions:", "These can be called:")), "Qwen2.5");
  EXPECT_EQ(name(replace(text, " + ", "+")), "Qwen2.5");
  EXPECT_THAT(name(replace(text, "{%- for message", "! {% for message")), HasSubstr("not known"));
}

TEST(ChatRecognitionTest, TheDefaultSystemMessageIsTheTemplatesOwn) {
  std::string text = TemplateText("qwen2_5");
  text.replace(text.rfind("Be brief."), 9, "Say \\'\\\\no\\'.");
  const auto chat_template = ChatTemplate::FromText(text, "");
  ASSERT_TRUE(chat_template.ok()) << chat_template.status();
  EXPECT_THAT(*chat_template->Render({.messages = {{"user", "x"}}}),
              StartsWith("<|im_start|>system\nSay '\\no'.<|im_end|>\n"));
}

TEST(ChatRecognitionTest, ARefusalSaysWhatWasFoundAndWhatIsKnown) {
  std::string text = TemplateText("qwen3");
  text.replace(text.rfind("<think>\\n\\n</think>"), 7, "<thunk>");
  const std::string message(RecogniseTemplate(text).status().message());
  EXPECT_THAT(message, HasSubstr("nearest is Qwen3, but statement "));
  EXPECT_THAT(message, HasSubstr("is `emit \"<thunk>"));
  EXPECT_THAT(message, HasSubstr("where it has `emit \"<think>"));
  EXPECT_THAT(message, HasSubstr("can be sent as text"));
}

TEST(ChatRecognitionTest, HostileTextsAreRefusedAndNeverCrash) {
  for (const std::string text :
       {"", "{", "{{", "{%", "{#", "{{ 'x", "{{ '\\", "{{ \"\\x41\" }}", "{% endif %}{% else %}",
        "{% if %}", "{%%}", "{{}}", "{#-#}", "}}", "{% if a %}{% endfor %}", "{{ {'a': {}} }}",
        "\xff\xfe{{\xff}}", "{% raw %}{{ x }}{% endraw %}"}) {
    EXPECT_EQ(RecogniseTemplate(text).status().code(), absl::StatusCode::kFailedPrecondition)
        << text;
  }
  std::string deep;
  for (int i = 0; i < 20000; ++i) deep += "{%if x%}";
  EXPECT_FALSE(RecogniseTemplate(deep).ok());
  EXPECT_THAT(std::string(RecogniseTemplate(std::string(1 << 20, 'x')).status().message()),
              HasSubstr("1048576 bytes"));
}

struct Refusal {
  const char* name;
  Chat chat;
  const char* says;
};

TEST(ChatRenderTest, WhatATemplateHasNoPlaceForIsRefusedByField) {
  const std::vector<ChatMessage> hi = {{"user", "hi"}};
  const std::vector<Refusal> refusals{
      {"qwen3", {}, "messages: is empty"},
      {"chatml", {{{"user", "a"}, {"", "b"}}}, "messages[1].role= is none"},
      {"llama3", {{{"user", "a"}, {"user", "b"}, {"ipython", "c"}}}, "messages[2].role=ipython"},
      {"llama3_1", {{{"tool", "a"}}}, "messages[0].role=tool: tools"},
      {"chatml", {{{"assistant", "a", "because"}}}, "messages[0].reasoning_content: the ChatML"},
      {"qwen3", {{{"user", "a", "because"}}}, "messages[0].reasoning_content: only"},
      {"qwen2_5", {.messages = hi, .enable_thinking = false}, "enable_thinking=false: the Qwen2.5"},
      {"qwen3", {.messages = hi, .date_string = "1 May"}, "date_string=1 May: the Qwen3"},
      {"llama3_2", {.messages = hi}, "date_string: is empty; the Llama-3.2"},
      {"llama3_first", {.messages = hi, .add_generation_prompt = false}, "add_generation_prompt="},
  };
  for (const Refusal& r : refusals) {
    const absl::Status status =
        ChatTemplate::FromText(TemplateText(r.name), kBos)->Render(r.chat).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << r.says;
    EXPECT_THAT(std::string(status.message()), StartsWith(r.says));
  }
}

TEST(ChatRenderTest, ATokenizerWithoutTheTemplatesTokensIsRefused) {
  const auto tokenizer =
      *Tokenizer::FromJson(*ByteTokenizerJson(std::vector<std::string>{"<|im_start|>"}));
  const auto chat_template = *ChatTemplate::FromText(TemplateText("chatml"), "");
  const absl::Status status =
      chat_template.Encode({.messages = {{"user", "a"}}}, *tokenizer).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(std::string(status.message()), HasSubstr("<|im_end|>, which is 10 tokens"));
}

class FolderChatTest : public ::testing::Test {
 protected:
  void WriteConfig(const Json& config) { Write("tokenizer_config.json", config.dump()); }
  void Write(const std::string& name, const std::string& text) {
    weights::Write(folder_ / name, text);
  }
  // The name of the template, or why it is refused.
  std::string Read() {
    const FolderChat chat = FolderChat::Read(folder_.path());
    if (chat.own().ok()) return std::string(chat.own()->name());
    EXPECT_EQ(chat.own().status().code(), absl::StatusCode::kFailedPrecondition);
    return std::string(chat.own().status().message());
  }
  weights::ScratchFolder folder_;
};

TEST_F(FolderChatTest, ATemplateIsAFileOrAMemberOfTheConfiguration) {
  WriteConfig({{"chat_template", TemplateText("chatml")}});
  EXPECT_EQ(Read(), "ChatML");
  WriteConfig({{"chat_template",
                {{{"name", "tool_use"}, {"template", "x"}},
                 {{"name", "default"}, {"template", TemplateText("qwen3")}}}}});
  EXPECT_EQ(Read(), "Qwen3");
  Write("chat_template.jinja", TemplateText("qwen2_5"));  // goes before the configuration
  EXPECT_EQ(Read(), "Qwen2.5");
}

TEST_F(FolderChatTest, BosIsATextOrATokenOfTheConfiguration) {
  Write("chat_template.jinja", TemplateText("llama3"));
  EXPECT_THAT(Read(), HasSubstr("begins with bos_token, which tokenizer_config.json does not"));
  for (const Json& bos : {Json(kBos), Json({{"content", kBos}, {"special", true}})}) {
    WriteConfig({{"bos_token", bos}});
    const FolderChat chat = FolderChat::Read(folder_.path());
    ASSERT_TRUE(chat.own().ok()) << chat.own().status();
    EXPECT_THAT(*chat.own()->Render({.messages = {{"user", "a"}}}), StartsWith(kBos));
    EXPECT_TRUE(chat.Given(TemplateText("llama3_1")).ok());
  }
}

TEST_F(FolderChatTest, RefusalsNameTheFolderTheFileAndWhatWasFound) {
  EXPECT_THAT(Read(),
              StartsWith(folder_.path() + ": has no chat template: no chat_template.jinja"));
  EXPECT_THAT(std::string(FolderChat::Read(folder_.path(), "the model").own().status().message()),
              StartsWith("the model: has no chat template"));
  WriteConfig(Json::object());
  EXPECT_THAT(Read(), HasSubstr("can be sent as text"));
  Write("tokenizer_config.json", "[");
  EXPECT_THAT(Read(), HasSubstr("tokenizer_config.json is no JSON object"));
  WriteConfig({{"chat_template", 3}});
  EXPECT_THAT(Read(), HasSubstr("neither a text nor a list"));
  WriteConfig({{"chat_template", Json::array({1, {{"name", "tool_use"}, {"template", "x"}}})}});
  EXPECT_THAT(Read(), HasSubstr("named \"default\""));
  WriteConfig({{"chat_template", "{{ messages[0].content }}"}, {"bos_token", 7}});
  EXPECT_THAT(Read(), HasSubstr(": tokenizer_config.json: chat template that is not known"));
  Write("chat_template.jinja", "");
  EXPECT_THAT(Read(), HasSubstr(": chat_template.jinja: chat template that is not known"));
}

}  // namespace
}  // namespace palimpsest
