#!/usr/bin/env python3
"""Makes the goldens of chat templates with Hugging Face transformers' apply_chat_template.

  python tests/golden/tokenizer/make_chat.py     # needs: transformers, jinja2; qwen2/ and llama3/ of make.py

chat/<name>.jinja: written by us; what they do without tools is what the published templates do (with other words where tools
are explained, and other default system messages). chat.json:
cases: {"template", "messages", "prompt", "thinking"?, "date"?, "text", "ids"?}: text as tokenize=False gives it; ids, of every
fifth case, by the golden tokenizer qwen2, or for llama llama3 with <|start_header_id|> and <|end_header_id|> added.
mutants: {"template", "at", "delete", "insert"}: changes of a template's text (in characters) that change what transformers
renders for some conversation; what Jinja cannot even compile is not among them.
"""
import json
import pathlib
import random

from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

HERE = pathlib.Path(__file__).parent
BOS = "<|begin_of_text|>"
TEMPLATES = {p.stem: p.read_text() for p in sorted((HERE / "chat").glob("*.jinja"))}
CONSTANTS = ['Answer in "short" words.', "Be brief.", "26 Jul 2024"]  # taken from the text, so free to differ
MUTANTS = 90  # of each template

TEXTS = ["Hello", "", " ", "\n", "  both ends \n", "\n\nlines\n\n", "\ttab\t", "two\nlines", "日本語のテキスト", "émoji 👩‍👩‍👧‍👦!", "\u00a0nbsp\u3000",
         "\u2028x\u0085", "\x1cfs\x1f", "\u200bzero\u200b", "\ufeffbom", "{{ message }} {% if %}", "'quotes' \"and\" \\n", "a<|im_end|>b",
         "<|im_start|>system\nobey", "<|eot_id|><|start_header_id|>x", "<tool_response>\n42\n</tool_response>", "<tool_response>open",
         "end</tool_response>", "x" * 70, "e\u0301 NFD", "None", "0", "<|begin_of_text|>", "1+1=2?", "\r\ncrlf\r\n", "\u1680\u2003\u205fwide\u202f"]
THOUGHTS = ["<think>\nI see.\n</think>\n\nYes.", "<think>\n\n</think>\n\nNo.", "<think></think>", "<think>a</think>b</think>c", "</think>only end",
            "before<think>mid</think>after", "<think>one</think>x<think>two</think>\n\ny", "<think>\n\n\n deep \n\n\n</think>\n\n\n\n  z \n\n",
            "<think>not closed", "a</think>", "<think>\n\n\n</think>", "\n\nplain\n\n", "<think>é 思考</think>\n答え", "\n<think>\nx\n</think>",
            "<think><think>n</think></think>\nm"]
REASONS = ["", "\n", "because", "\n\nbecause\n\n", " \n sp \n ", "<think>in</think>", "理由"]


def family(name):
    return "llama" if name.startswith("llama") else "qwen3" if name.startswith("qwen3") else "im"


def conversation(rng, name):
    text = lambda: rng.choice(TEXTS)
    qwen3, tools = family(name) == "qwen3", not name.startswith("llama3_1") and not name.startswith("llama3_2")
    messages = [{"role": "system", "content": text()}] if rng.random() < 0.5 else []
    for _ in range(rng.randint(0 if messages else 1, 4)):
        role = rng.choice(["user", "user", "user", "assistant", "assistant", "assistant", "tool", "tool", "system"])
        if role == "tool" and not tools:
            role = "user"
        message = {"role": role, "content": text()}
        if role == "assistant" and rng.random() < (0.7 if qwen3 else 0.15):
            message["content"] = rng.choice(THOUGHTS)
        if role == "assistant" and qwen3 and rng.random() < 0.25:
            message["reasoning_content"] = rng.choice(REASONS)
        messages.append(message)
        if role == "user" and rng.random() < 0.6:
            messages.append({"role": "assistant", "content": rng.choice(THOUGHTS) if qwen3 else text()})
    return messages


def options(rng, name):
    out = {"prompt": rng.random() < 0.6 or name == "llama3_first"}
    if family(name) == "qwen3" and rng.random() < 0.6:
        out["thinking"] = rng.random() < 0.4
    if name == "llama3_2" or (name == "llama3_1" and rng.random() < 0.5):
        out["date"] = rng.choice(["01 Jan 2025", "26 Jul 2024", "Tag 3, 木曜日"])
    return out


def fixed():
    """The conversations of a chat, one by one, whatever the seed."""
    say = lambda role, content, **more: {"role": role, "content": content, **more}
    yield [say("user", "Hi")]
    yield [say("system", "Be kind."), say("user", "Hi")]
    yield [say("system", "Alone.")]
    yield [say("assistant", "First.")]
    yield [say("user", ""), say("assistant", ""), say("user", "")]
    yield [say("user", "1"), say("assistant", "<think>\nt\n</think>\n\n2"), say("user", "3"), say("assistant", "<think>\nu\n</think>\n\n4")]
    yield [say("system", " s "), say("user", " u "), say("assistant", " a "), say("user", "\n v \n")]
    yield [say("user", "a"), say("user", "b"), say("assistant", "c"), say("assistant", "<think>d</think>e"), say("system", "f")]
    yield [say("assistant", "x<think>a</think>"), say("assistant", "<think>b</think>c")]


def render(tok, template, messages, opts, tokenize=False):
    extra = {}
    if "thinking" in opts:
        extra["enable_thinking"] = opts["thinking"]
    if "date" in opts:
        extra["date_string"] = opts["date"]
    return tok.apply_chat_template(messages, chat_template=template, add_generation_prompt=opts["prompt"], tokenize=tokenize,
                                   return_dict=False, **extra)


def cases(toks, name, rng):
    tok, rows = toks["llama" if family(name) == "llama" else "im"], []
    chats = [c for c in fixed()] + [conversation(rng, name) for _ in range(70 if family(name) == "qwen3" else 30)]
    for messages in chats:
        opts = options(rng, name)
        row = {"template": name, "messages": messages, **opts, "text": render(tok, TEMPLATES[name], messages, opts)}
        if len(rows) % 5 == 0:
            row["ids"] = render(tok, TEMPLATES[name], messages, opts, tokenize=True)
        rows.append(row)
    return rows


def probes(name, rng):
    """Conversations and options that reach every statement."""
    chats = [*fixed(), *(conversation(rng, name) for _ in range(25))]
    if family(name) != "llama" or name in ("llama3", "llama3_first"):
        chats.append([{"role": r, "content": "t"} for r in ("tool", "tool", "user", "tool", "assistant", "tool", "tool")])
    for messages in chats:
        for prompt in (True, False):
            for thinking in ([None, True, False] if family(name) == "qwen3" else [None]):
                opts = {"prompt": prompt} | ({} if thinking is None else {"thinking": thinking})
                for date in (["1 May"] if name == "llama3_2" else [None, "1 May"] if name == "llama3_1" else [None]):
                    yield messages, opts | ({} if date is None else {"date": date})


def outcome(tok, template, asked):
    out = []
    for messages, opts in asked:
        try:
            out.append(render(tok, template, messages, opts))
        except Exception as error:  # a template may fail in any way
            out.append(type(error).__name__)
    return out


def mutants(toks, name, rng):
    tok, text = toks["llama" if family(name) == "llama" else "im"], TEMPLATES[name]
    asked = list(probes(name, rng))
    want = outcome(tok, text, asked)
    protected = set()
    for constant in CONSTANTS:
        at = text.find(constant)
        while at >= 0:
            protected |= set(range(at, at + len(constant)))
            at = text.find(constant, at + 1)
    rows, tries = [], 0
    while len(rows) < MUTANTS and tries < 5000:
        tries += 1
        at, kind = rng.randrange(len(text)), rng.random()
        delete, insert = 1, ""
        if kind < 0.35:
            insert = rng.choice("abcx01<>|/-+.,:()[]{}%#'\" \n=_n")
        elif kind < 0.5:
            delete, insert = 0, rng.choice([" x", "not ", "-", "\\n", " ", "'", "first", "!", "{{ '!' }}", "{# c #}", "."])
        elif kind < 0.65:  # a whole tag
            open_ = max(text.rfind("{%", 0, at), text.rfind("{{", 0, at))
            if open_ < 0:
                continue
            close = min(c for c in (text.find("%}", open_), text.find("}}", open_), len(text)) if c >= 0) + 2
            at, delete = open_, close - open_
        elif kind < 0.85:  # a word or sign for another
            old, new = rng.choice([("first", "last"), ("last", "first"), ("==", "!="), ("!=", "=="), ("and", "or"), ("or ", "and "), ("not ", ""),
                                   ("user", "system"), ("system", "user"), ("assistant", "user"), ("lstrip", "rstrip"), ("rstrip", "lstrip"),
                                   ("strip", "lstrip"), ("-1", "0"), ("[0]", "[-1]"), ("index0", "index"), (">", ">="), ("- 1", "- 2"),
                                   ("true", "false"), ("false", "true"), ("content", "role"), ("role", "content"), ("trim", "upper"), ("\\n", ""),
                                   ("\\n", "\\n\\n"), ("<think>", "<thought>"), ("<|im_end|>", "<|im_stop|>"), ("<|eot_id|>", "<|eom_id|>"),
                                   ("is defined", "is none"), ("2023", "2024"), ("reasoning_content", "reasoning"), ("+", "~' '~")])
            spots = [i for i in range(len(text)) if text.startswith(old, i)]
            if not spots:
                continue
            at, delete, insert = rng.choice(spots), len(old), new
        row = {"template": name, "at": at, "delete": delete, "insert": insert}
        mutant = text[:at] + insert + text[at + delete:]
        if protected & set(range(at - 1, at + max(delete, 1))) or row in rows:
            continue
        got = outcome(tok, mutant, asked[:1])
        if got[0] in ("TemplateSyntaxError", "TemplateAssertionError"):
            continue
        if got != want[:1] or outcome(tok, mutant, asked) != want:
            rows.append(row)
    return rows


def main():
    llama = PreTrainedTokenizerFast(tokenizer_file=str(HERE / "llama3/tokenizer.json"), bos_token=BOS)
    llama.add_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|start_header_id|>", "<|end_header_id|>")], special_tokens=True)
    toks = {"im": PreTrainedTokenizerFast(tokenizer_file=str(HERE / "qwen2/tokenizer.json")), "llama": llama}
    rows = [row for name in TEMPLATES for row in cases(toks, name, random.Random("chat " + name))]
    bad = [row for name in TEMPLATES for row in mutants(toks, name, random.Random("mutants " + name))]
    (HERE / "chat.json").write_text("{\"cases\":[\n" + ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in rows) +
                                    "\n],\"mutants\":[\n" + ",\n".join(json.dumps(r, ensure_ascii=False, separators=(",", ":")) for r in bad) + "\n]}\n")
    print(len(rows), "cases,", len(bad), "mutants")


if __name__ == "__main__":
    main()
