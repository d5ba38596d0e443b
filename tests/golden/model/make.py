"""Makes the model goldens next to this file: tiny random checkpoints written by transformers, what it answers to them.

Each folder is a checkpoint as save_pretrained writes it, plus golden.json:
  ids, positions      one packed batch of sequences, lengths in `lengths`
  logits              fp32, flat [T * V], base64 of little-endian floats
  greedy              per sequence the greedy continuation
Run with torch 2.11, transformers 5.23: python make.py
"""
import base64
import json
import pathlib
import shutil

import torch
from transformers import LlamaConfig, LlamaForCausalLM, Qwen2Config, Qwen2ForCausalLM, Qwen3Config, Qwen3ForCausalLM

HERE = pathlib.Path(__file__).parent
LENGTHS = [11, 7, 1]
GREEDY_TOKENS = 8


def common(**more):
    sizes = dict(vocab_size=131, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
                 num_key_value_heads=2, max_position_embeddings=512, eos_token_id=None, bos_token_id=None)
    return sizes | more


LLAMA3 = dict(rope_type="llama3", rope_theta=500.0, factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0,
              original_max_position_embeddings=32)

# name -> (class, config, first position of each sequence)
MODELS = {
    "qwen3_tied": (Qwen3ForCausalLM, Qwen3Config(**common(head_dim=16, tie_word_embeddings=True)), 0),
    "qwen3_untied_sharded": (Qwen3ForCausalLM, Qwen3Config(**common(
        head_dim=8, num_hidden_layers=3, attention_bias=True,
        rope_parameters=dict(rope_type="default", rope_theta=1e6))), 5),
    "qwen2_bias": (Qwen2ForCausalLM, Qwen2Config(**common(rms_norm_eps=1e-5)), 0),
    "llama3_scaling": (LlamaForCausalLM, LlamaConfig(**common(
        hidden_size=64, num_key_value_heads=1, rope_parameters=LLAMA3, attention_bias=True, mlp_bias=True)), 200),
    "qwen3_bf16": (Qwen3ForCausalLM, Qwen3Config(**common(head_dim=8, tie_word_embeddings=True)), 0),
    "llama_spelling_of_4": (LlamaForCausalLM, LlamaConfig(**common(rope_parameters=LLAMA3)), 100),
}


def shake(model, generator):
    """Random weights large enough that every part of the model shows in the logits."""
    with torch.no_grad():
        for name, p in model.named_parameters():
            noise = torch.randn(p.shape, generator=generator)
            if "norm" in name:
                p.copy_(1 + 0.2 * noise)
            elif name.endswith("bias"):
                p.copy_(0.5 * noise)
            elif "embed" in name:
                p.copy_(0.5 * noise)
            else:
                p.copy_(1.5 * noise / p.shape[-1] ** 0.5)


def spell_as_4(folder):
    path = folder / "config.json"
    config = json.loads(path.read_text())
    rope = config.pop("rope_parameters")
    config["rope_theta"] = rope.pop("rope_theta")
    config["rope_scaling"] = rope
    config["torch_dtype"] = config.pop("dtype")
    del config["head_dim"]
    path.write_text(json.dumps(config, indent=2) + "\n")


@torch.no_grad()
def answers(model, first, generator):
    ids, positions, logits, greedy = [], [], [], []
    for n in LENGTHS:
        row = torch.randint(0, model.config.vocab_size, (1, n), generator=generator)
        where = torch.arange(first, first + n)[None]
        out = model(input_ids=row, position_ids=where).logits[0].float()
        ids += row[0].tolist()
        positions += where[0].tolist()
        logits.append(out)
        for _ in range(GREEDY_TOKENS):
            where = torch.arange(first, first + row.shape[1])[None]
            best = model(input_ids=row, position_ids=where).logits[0, -1].argmax()
            row = torch.cat([row, best.view(1, 1)], 1)
        greedy.append(row[0, n:].tolist())
    flat = torch.cat(logits).contiguous().numpy().astype("<f4").tobytes()
    return dict(lengths=LENGTHS, ids=ids, positions=positions, greedy=greedy,
                logits=base64.b64encode(flat).decode())


def main():
    for number, (name, (kind, config, first)) in enumerate(MODELS.items()):
        generator = torch.Generator().manual_seed(1000 + number)
        model = kind(config).eval()
        shake(model, generator)
        if name.endswith("bf16"):
            model = model.to(torch.bfloat16)
        folder = HERE / name
        shutil.rmtree(folder, ignore_errors=True)
        model.save_pretrained(folder, max_shard_size="40KB" if name.endswith("sharded") else "5GB")
        # As a user loads it: casting a live model would round its rotary frequencies as well.
        model = kind.from_pretrained(folder, dtype="auto", attn_implementation="eager").eval()
        (folder / "golden.json").write_text(json.dumps(answers(model, first, generator)) + "\n")
        if name.endswith("spelling_of_4"):
            spell_as_4(folder)


if __name__ == "__main__":
    main()
