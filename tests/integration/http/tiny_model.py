"""A model folder with a text side: a golden model, a tokenizer of the 128 ASCII bytes and ChatML."""
import json
import pathlib
import shutil

GOLDEN = pathlib.Path("tests/golden")
SPECIAL = ("<|end|>", "<|im_start|>", "<|im_end|>")  # 128 to 130: the model's vocabulary is 131


def symbol_of(byte):
    """How byte-level BPE spells a byte: itself where it can be printed, else U+0100 and on."""
    printed = [*range(33, 127), *range(161, 173), *range(174, 256)]
    if byte in printed:
        return chr(byte)
    return chr(256 + [b for b in range(256) if b not in printed].index(byte))


def write(folder):
    source = GOLDEN / "model/qwen3_tied"
    folder.mkdir()
    shutil.copy(source / "config.json", folder)
    shutil.copy(source / "model.safetensors", folder)
    shutil.copy(GOLDEN / "tokenizer/chat/chatml.jinja", folder / "chat_template.jinja")
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": 128}))
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    added = [{"id": 128 + i, "content": text, "single_word": False, "lstrip": False, "rstrip": False,
              "normalized": False, "special": True} for i, text in enumerate(SPECIAL)]
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {symbol_of(byte): byte for byte in range(128)}, "merges": []}
    (folder / "tokenizer.json").write_text(json.dumps({
        "version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None,
        "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model}))
