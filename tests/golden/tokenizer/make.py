#!/usr/bin/env python3
"""Makes the goldens of common/tokenizer with Hugging Face `tokenizers` (trained here on a text made here).

  python tests/golden/tokenizer/make.py     # needs: tokenizers, transformers (any recent versions)

qwen2/, llama3/, gpt2/tokenizer.json: three trained byte-level BPE files.
cases.json: {"cases": [{"t": text, "<file>": {"ids", "text"?, "plain"?}}]}: text is Decode(ids), left out when it
equals t; plain is the same without special tokens, left out when it equals text. llama3 also: "bos" ids.
unicode.json: for \\p{L}, \\p{N}, \\s the ranges of code points that Oniguruma matches.
bytes.json: ids of a few texts by transformers' AutoTokenizer on ByteTokenizerJson's file (passed as BYTE_JSON).
"""
import json
import os
import pathlib
import random
import tempfile
import unicodedata

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
QWEN2 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
         r"|\s+(?!\S)|\s+")
LLAMA3 = QWEN2.replace(r"|\p{N}|", r"|\p{N}{1,3}|")

WORDS = {
    "latin": "the model reads a long text and keeps what matters while older rows are folded into fewer slots "
             "Straße café naïve Ångström señor garçon façade jalapeño Łódź İstanbul ﬁne ﬆop ĳssel".split(),
    "greek": "λόγος μνήμη χρόνος ψυχή Ὀδυσσεύς ᾧ".split(),
    "cyrillic": "память читает длинный текст ещё объём Їжак ўсё".split(),
    "arabic": "الذاكرة تقرأ النص الطويل مَرْحَبًا ٣٤٥".split(),
    "hebrew": "זיכרון קורא טקסט שָׁלוֹם".split(),
    "hindi": "स्मृति लंबा पाठ पढ़ती है क़िला १२३".split(),
    "thai": "ความจำอ่านข้อความยาว น้ำใจ ๑๒๓".split(),
    "chinese": "记忆 读取 长文本 压缩 缓存 龍馬 𠮷野家 １２３".split(),
    "japanese": "メモリ が 長い 文章 を 読む ｶﾞｷﾞ ゔァ 々".split(),
    "korean": "기억이 긴 글을 읽는다 한국어".split(),
    "other": "ትውስታ მეხსიერება հիշողություն மொழி নদী ខ្មែរ မြန်မာ ᏣᎳᎩ ᠮᠣᠩᠭᠣᠯ".split(),
    "math": "𝒳≤∑ ½ ² Ⅷ ① ∀x∈ℝ √2 e=mc² ㎏ 𝟘𝟙𝟚 Ⅳ ㊿ 〇".split(),
    "emoji": "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇫🇷 ❤️‍🔥 🧑🏿‍🚀 ☕️ 1️⃣ 🫠".split(),
    "short": "I'm you're DON'T WE'LL it's IT'S they've I’d he'D 'Tis o'clock 'ſ 'LL'Re x'mas ''s 's".split(),
    "number": "0 7 42 123 1234 12345 3.14159 1,000,000 0xFF 1e-9 2024-11-21 00000000 007".split(),
    "code": ["def f(x):\n    return x ** 2", "for (int i = 0; i < n; ++i) {\n\t\tsum += a[i];\r\n\t}", "</div>\n\n",
             "SELECT * FROM t WHERE id='7';", "#include <vector>", "a->b::c<d>&&e||!f", "//////", "=====\n", "x_1=_y__",
             "if(a!=b){return(-1);}", "\\frac{a}{b}", "~/.cache/x-y_z.json"],
}
SPACES = [" ", " ", " ", " ", "  ", "   ", "\n", "\n\n", "\r\n", "\t", "\t\t", " \n", "\n ", "\r", "\u00a0", "\u2028", "\u3000",
          "\u2003", "\u180e", "\u200b", "\u0085", "\x0b", "\x0c", "\u1680", "\u202f ", "\ufeff", "", "     \n   "]
ODD = ["\x00", "\x01\x02", "\x1b[0m", "\x7f", "\u0300", "e\u0301", "A\u030a", "o\u0323\u0302", "o\u0302\u0323", "\u1100\u1161\u11a8",
       "\u212b", "\u2126", "\ufb01", "\u0958", "\u0344", "\ufffd", "\uffff", "\U0010ffff", "\ue000", "\u200d", "\u202e", "\u0345",
       "q\u0307\u0323", "\u3099か", "か\u3099", "\u0f73", "\U0001d15e", "\u2adc", "İ", "ß", "K", "'K", "_", "__", "·", "…", "—", "“ok”"]
ADDED = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|begin_of_text|>", "<|eot_id|>", "<tool_call>", "</tool_call>", "<think>",
         "[L]", "[R]", "word1", "Ångstro\u0308m", "<|im_start", "<|endoftext|", "<|end", "[LR]", "née", "ne\u0301e", "word1s", "é1"]


def words(rng):
    group = rng.choice(list(WORDS))
    return [rng.choice(WORDS[group]) for _ in range(rng.randint(1, 5))]


def text(rng, odd, added):
    out = []
    for _ in range(rng.randint(1, 5)):
        for word in words(rng):
            out += [word, rng.choice(SPACES) if rng.random() < odd else " "]
            if rng.random() < odd / 2:
                out.append(rng.choice(ODD))
            if rng.random() < added:
                out += [rng.choice(ADDED), rng.choice(["", "", " ", "  ", "\n", "s"])]
    whole = "".join(out)
    form = rng.choice([None, None, "NFC", "NFD", "NFKD"])
    whole = unicodedata.normalize(form, whole) if form else whole
    return whole if rng.random() < 0.5 else whole.strip(" ")


def cases(rng):
    fixed = ["", " ", "  ", "\n", "\r\n", "a", " a", "a ", "\u3000", "\u00a0\u00a0x", "\t\n\r\x0b\x0c", "\u180e\u180e", "aaaa" * 40, " " * 90,
             "\n" * 33 + "x", "1" * 50, "١٢٣٤", "é" * 70, "👩‍👩‍👧‍👦" * 5, "'s't're've'm'll'd'S'T'RE'VE'M'LL'D", "’s’t", "a  \n  b", "  a", "\u2028a\u2028 b",
             "memory " * 60, "x" * 300, "的" * 90, "[L] [L]  [R]  [R] x[L]", " [L][R] ", "word1 word1s xword1 _word1 word1.", "[R][L]"]
    fixed += ODD + ADDED + [w for group in WORDS.values() for w in group]
    fixed += [a + b for a in ADDED[:12] for b in ADDED[:8]]
    fixed += [f"x{a} y" for a in ADDED] + [f" {a} " for a in ADDED] + [f"x{s}y{s}{s}1{s}" for s in SPACES]
    fixed += ["".join(chr(c) for c in range(b, b + 16)) for b in range(0, 0x500, 16)]
    rand = []
    for _ in range(260):  # any assigned or unassigned characters, in runs
        rand.append("".join(chr(c) for c in (rng.choice([rng.randrange(0x3000), rng.randrange(0x20000)]) for _ in range(12))
                            if not 0xd800 <= c < 0xe000))
    made = [text(rng, 0.1, 0), text(rng, 0.6, 0)]
    made += [text(rng, rng.choice([0, 0.2, 0.7]), rng.choice([0, 0, 0.3])) for _ in range(1650)]
    return [t[:160] for t in dict.fromkeys(fixed + rand + made)]


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated", invert=False),
                                    pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def train(tokenizer, corpus, size, alphabet, special=()):
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(corpus, trainers.BpeTrainer(vocab_size=size, show_progress=False, special_tokens=list(special),
                                                              initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if alphabet else []))


def make_qwen2(corpus):
    tok = Tokenizer(models.BPE())
    tok.normalizer = normalizers.NFC()
    tok.pre_tokenizer = split(QWEN2)
    tok.post_processor = processors.ByteLevel(trim_offsets=False)
    train(tok, corpus, 2400, True)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ADDED[:3]])
    tok.add_tokens([AddedToken(t, normalized=False) for t in ("<tool_call>", "</tool_call>", "<think>")])
    tok.add_tokens([AddedToken("[L]", lstrip=True, normalized=False), AddedToken("[R]", rstrip=True, normalized=True),
                    AddedToken("word1", single_word=True), AddedToken("Ångstro\u0308m", normalized=True), AddedToken("ne\u0301e", normalized=False)])
    return tok


def make_llama3(corpus):
    tok = Tokenizer(models.BPE(ignore_merges=True))
    tok.pre_tokenizer = split(LLAMA3)
    train(tok, corpus, 3000, True)
    tok.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>")])
    bos = "<|begin_of_text|>"
    tok.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=True), processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1", special_tokens=[(bos, tok.token_to_id(bos))])])
    return tok


def drop_some_merges(tok):
    """Llama 3 has tokens that no chain of merges reaches: only with ignore_merges they are found."""
    data = json.loads(tok.to_str())
    merges = data["model"]["merges"]
    data["model"]["merges"] = [m for i, m in enumerate(merges) if i < 1200 or i % 5]
    return Tokenizer.from_str(json.dumps(data))


def make_gpt2(corpus):
    """Plain ByteLevel; merges as strings; an alphabet with holes and an unk token."""
    tok = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    train(tok, corpus[:40], 700, False, ["<unk>"])
    tok.add_tokens([AddedToken("[LR]", lstrip=True, rstrip=True, single_word=False), AddedToken("é1", special=True)])
    data = json.loads(tok.to_str())
    data["model"]["merges"] = [" ".join(m) for m in data["model"]["merges"]]
    return Tokenizer.from_str(json.dumps(data)), data


def answer(tok, name, t):
    ids = tok.encode(t, add_special_tokens=False).ids
    out = {"ids": ids}
    whole, plain = tok.decode(ids, skip_special_tokens=False), tok.decode(ids, skip_special_tokens=True)
    if whole != t:
        out["text"] = whole
    if plain != whole:
        out["plain"] = plain
    if name == "llama3" and len(t) % 7 == 0:
        out["bos"] = tok.encode(t).ids
    return out


def unicode_ranges(pattern):
    pre = pre_tokenizers.Split(Regex(pattern), "removed")
    ranges = []
    for c in range(0x110000):
        if 0xd800 <= c < 0xe000 or pre.pre_tokenize_str(chr(c)):
            continue
        if ranges and ranges[-1][1] == c - 1:
            ranges[-1][1] = c
        else:
            ranges.append([c, c])
    return ranges


def read_bytes_file(path):
    from transformers import PreTrainedTokenizerFast
    tok = PreTrainedTokenizerFast(tokenizer_file=path)
    texts = ["", "a b", "héllo <|end|>\n", "<|pad|><|end|>x", "\x00ÿ", "12'S 👩‍👩‍👧"]
    with tempfile.TemporaryDirectory() as folder:
        tok.save_pretrained(folder)
        from transformers import AutoTokenizer
        auto = AutoTokenizer.from_pretrained(folder)
        return [{"t": t, "ids": auto(t, add_special_tokens=False)["input_ids"], "text": auto.decode(auto(t)["input_ids"])} for t in texts]


def write(path, data):
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(data, ensure_ascii=False, separators=(",", ":")) + "\n")


def main():
    corpus_rng = random.Random("corpus")
    corpus = [text(corpus_rng, 0.15, 0) for _ in range(3000)]
    gpt2, gpt2_data = make_gpt2(corpus)
    files = {"qwen2": make_qwen2(corpus), "llama3": drop_some_merges(make_llama3(corpus)), "gpt2": gpt2}
    for name, tok in files.items():
        write(HERE / name / "tokenizer.json", gpt2_data if name == "gpt2" else json.loads(tok.to_str()))
    rows = []
    for i, t in enumerate(cases(random.Random("cases"))):
        row = {"t": t}
        for name, tok in files.items():
            if name != "gpt2" or i % 4 == 0 or i < 500:
                row[name] = answer(tok, name, t)
        rows.append(row)
    write(HERE / "cases.json", {"cases": rows})
    write(HERE / "unicode.json", {p: unicode_ranges(p) for p in (r"\p{L}", r"\p{N}", r"\s")})
    if os.environ.get("BYTE_JSON"):
        write(HERE / "bytes.json", {"special": ["<|pad|>", "<|end|>"], "cases": read_bytes_file(os.environ["BYTE_JSON"])})
    print(len(rows), "cases;", sum(p.stat().st_size for p in HERE.rglob("*.json")), "bytes")


if __name__ == "__main__":
    main()
