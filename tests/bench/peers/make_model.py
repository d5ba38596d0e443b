#!/usr/bin/env python3
"""Random weights of Qwen3-0.6B's shape, twice: a Hugging Face folder, and the same numbers as GGUF in it.

Usage: make_model.py FOLDER [--seed N] [--layers N] [--vocab N]. Writes config.json, tokenizer.json, model.safetensors (bf16)
and model.gguf: 2.4 GB at the full shape. The same seed gives the same bytes.
"""
import argparse
import json
import pathlib

import gguf
import safetensors.torch
import torch

HIDDEN, INNER, HEADS, KV_HEADS, WIDTH = 1024, 3072, 16, 8, 128
MAX_POSITION, THETA, EPS = 40960, 1_000_000.0, 1e-6
BYTES = 256
# Hugging Face's name of a part of a layer, GGUF's, its shape: [out, in], or [n] of a norm.
LAYER = (
    ("input_layernorm", "attn_norm", (HIDDEN,)),
    ("self_attn.q_proj", "attn_q", (HEADS * WIDTH, HIDDEN)),
    ("self_attn.k_proj", "attn_k", (KV_HEADS * WIDTH, HIDDEN)),
    ("self_attn.v_proj", "attn_v", (KV_HEADS * WIDTH, HIDDEN)),
    ("self_attn.o_proj", "attn_output", (HIDDEN, HEADS * WIDTH)),
    ("self_attn.q_norm", "attn_q_norm", (WIDTH,)),
    ("self_attn.k_norm", "attn_k_norm", (WIDTH,)),
    ("post_attention_layernorm", "ffn_norm", (HIDDEN,)),
    ("mlp.gate_proj", "ffn_gate", (INNER, HIDDEN)),
    ("mlp.up_proj", "ffn_up", (INNER, HIDDEN)),
    ("mlp.down_proj", "ffn_down", (HIDDEN, INNER)))


def names_and_shapes(layers, vocab):
    """(Hugging Face's name, GGUF's name, shape) of each tensor; the head is the embedding."""
    yield "model.embed_tokens.weight", "token_embd.weight", (vocab, HIDDEN)
    for i in range(layers):
        for theirs, short, shape in LAYER:
            yield f"model.layers.{i}.{theirs}.weight", f"blk.{i}.{short}.weight", shape
    yield "model.norm.weight", "output_norm.weight", (HIDDEN,)


def draw(shape, generator):
    """Norms around 1, so that a norm that is mistaken for another shows; matrices as models are begun with."""
    values = torch.randn(shape, generator=generator)
    return (1 + 0.1 * values if len(shape) == 1 else 0.02 * values).to(torch.bfloat16)


def config_of(layers, vocab):
    return {"architectures": ["Qwen3ForCausalLM"], "model_type": "qwen3", "torch_dtype": "bfloat16",
            "num_hidden_layers": layers, "hidden_size": HIDDEN, "intermediate_size": INNER,
            "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": WIDTH, "vocab_size": vocab,
            "max_position_embeddings": MAX_POSITION, "rope_theta": THETA, "rms_norm_eps": EPS, "hidden_act": "silu",
            "tie_word_embeddings": True, "attention_bias": False, "use_sliding_window": False}


def symbols():
    """How byte-level BPE spells the 256 bytes: itself where it can be printed, else U+0100 and on."""
    printed = {*range(33, 127), *range(161, 173), *range(174, 256)}
    hidden = [b for b in range(BYTES) if b not in printed]
    return [chr(b) if b in printed else chr(BYTES + hidden.index(b)) for b in range(BYTES)]


def tokenizer_of(vocab):
    """Byte-level BPE of `vocab` entries: bytes, then pairs of bytes, then pairs with a byte behind."""
    alphabet = symbols()
    entries = list(alphabet)
    merges = []
    for left in entries:  # grows while it is read
        for right in alphabet:
            if len(entries) == vocab:
                break
            merges.append([left, right])
            entries.append(left + right)
        if len(entries) == vocab:
            break
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    model = {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None,
             "end_of_word_suffix": None, "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
             "vocab": {entry: i for i, entry in enumerate(entries)}, "merges": merges}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": [], "normalizer": None,
            "pre_tokenizer": byte_level, "post_processor": None, "decoder": byte_level, "model": model}


def gguf_writer(path, layers, vocab):
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_BF16)
    writer.add_block_count(layers)
    writer.add_context_length(MAX_POSITION)
    writer.add_embedding_length(HIDDEN)
    writer.add_feed_forward_length(INNER)
    writer.add_head_count(HEADS)
    writer.add_head_count_kv(KV_HEADS)
    writer.add_key_length(WIDTH)
    writer.add_value_length(WIDTH)
    writer.add_rope_freq_base(THETA)
    writer.add_layer_norm_rms_eps(EPS)
    writer.add_vocab_size(vocab)
    writer.add_tokenizer_model("no_vocab")
    return writer


def add_to_gguf(writer, name, tensor):
    if tensor.dim() == 1:  # llama.cpp keeps norms in fp32
        writer.add_tensor(name, tensor.float().numpy())
    else:
        writer.add_tensor(name, tensor.view(torch.uint8).numpy(), raw_dtype=gguf.GGMLQuantizationType.BF16)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=pathlib.Path)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--layers", type=int, default=28)
    parser.add_argument("--vocab", type=int, default=151936)
    args = parser.parse_args()
    if args.layers < 1 or args.vocab < BYTES:
        parser.error(f"--layers {args.layers} must be at least 1, --vocab {args.vocab} at least {BYTES}")
    args.folder.mkdir(parents=True, exist_ok=True)
    generator = torch.Generator().manual_seed(args.seed)
    writer = gguf_writer(args.folder / "model.gguf", args.layers, args.vocab)
    tensors = {}
    for theirs, short, shape in names_and_shapes(args.layers, args.vocab):
        tensors[theirs] = draw(shape, generator)
        add_to_gguf(writer, short, tensors[theirs])
    safetensors.torch.save_file(tensors, args.folder / "model.safetensors", metadata={"format": "pt"})
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    (args.folder / "config.json").write_text(json.dumps(config_of(args.layers, args.vocab), indent=2) + "\n")
    (args.folder / "tokenizer.json").write_text(json.dumps(tokenizer_of(args.vocab)))


if __name__ == "__main__":
    main()
