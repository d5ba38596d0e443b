"""A decoder of the Llama family in fp64 numpy, one token at a time over a cache that somebody else may rewrite.

Letters: L layers, H query heads, K KV heads, g = H/K query heads of one KV head, d head width, V vocabulary.
"""
import json
import math
import pathlib
from typing import NamedTuple

import numpy as np
from safetensors.numpy import load_file


class Slot(NamedTuple):
    position: int      # of the token it came from
    key: np.ndarray    # [d] after RoPE
    value: np.ndarray  # [d]
    bias: float        # added to every score


def rms_norm(x, weight, epsilon):
    return x / np.sqrt((x * x).mean(-1, keepdims=True) + epsilon) * weight


def softmax(scores):
    """Over the last axis."""
    e = np.exp(scores - scores.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


def inverse_frequencies(rope: dict, d: int):
    """theta^(-2i/d); llama3 divides long waves by `factor` and blends between the two bounds."""
    base = rope["rope_theta"] ** (-np.arange(0, d, 2) / d)
    if rope["rope_type"] == "default":
        return base
    turns = rope["original_max_position_embeddings"] * base / (2 * np.pi)  # within the original context
    low, high = rope["low_freq_factor"], rope["high_freq_factor"]
    blend = np.clip((turns - low) / (high - low), 0, 1)
    return base * (blend + (1 - blend) / rope["factor"])


class Decoder:
    def __init__(self, folder: pathlib.Path):
        config = json.loads((folder / "config.json").read_text())
        self.weights = {k: v.astype(np.float64) for k, v in load_file(folder / "model.safetensors").items()}
        self.layers = config["num_hidden_layers"]
        self.heads = config["num_attention_heads"]
        self.kv_heads = config["num_key_value_heads"]
        self.group = self.heads // self.kv_heads
        self.width = config.get("head_dim") or config["hidden_size"] // self.heads
        self.scale = 1 / math.sqrt(self.width)
        self.epsilon = config["rms_norm_eps"]
        self.max_position = config["max_position_embeddings"]
        self.vocabulary = config["vocab_size"]
        self.frequencies = inverse_frequencies(config["rope_parameters"], self.width)
        self.head = "model.embed_tokens" if config["tie_word_embeddings"] else "lm_head"

    def linear(self, name, x):
        y = self.weights[name + ".weight"] @ x
        return y + self.weights[name + ".bias"] if name + ".bias" in self.weights else y

    def norm(self, name, x):
        return rms_norm(x, self.weights[name + ".weight"], self.epsilon)

    def rotate(self, x, position):
        """RoPE; x [heads, d], the pair of dimension i is i + d/2."""
        angle = position * self.frequencies
        first, second = np.split(x, 2, axis=-1)
        return np.concatenate([first * np.cos(angle) - second * np.sin(angle),
                               second * np.cos(angle) + first * np.sin(angle)], -1)

    def project(self, layer, x, position):
        """Query [H, d] and key [K, d] after RoPE, value [K, d]."""
        name = f"model.layers.{layer}.self_attn"
        q = self.linear(name + ".q_proj", x).reshape(self.heads, self.width)
        k = self.linear(name + ".k_proj", x).reshape(self.kv_heads, self.width)
        v = self.linear(name + ".v_proj", x).reshape(self.kv_heads, self.width)
        if name + ".q_norm.weight" in self.weights:
            q, k = self.norm(name + ".q_norm", q), self.norm(name + ".k_norm", k)
        return self.rotate(q, position), self.rotate(k, position), v

    def attend(self, q, slots):
        """q [g, d] over the live slots of its KV head: softmax_j (q k_j / sqrt(d) + bias_j) v_j."""
        keys, values = np.stack([s.key for s in slots]), np.stack([s.value for s in slots])
        return softmax(self.scale * q @ keys.T + np.array([s.bias for s in slots])) @ values

    def step(self, token, position, cache, queries):
        """Processes one token once: its slot goes into cache[l][h], its queries into queries[l]. Returns logits [V]."""
        x = self.weights["model.embed_tokens.weight"][token]
        for layer in range(self.layers):
            name = f"model.layers.{layer}"
            q, k, v = self.project(layer, self.norm(name + ".input_layernorm", x), position)
            queries[layer].append(q)
            out = []
            for h, slots in enumerate(cache[layer]):
                slots.append(Slot(position, k[h], v[h], 0.0))
                out.append(self.attend(q[h * self.group:(h + 1) * self.group], slots))
            x = x + self.linear(name + ".self_attn.o_proj", np.concatenate(out).reshape(-1))
            y = self.norm(name + ".post_attention_layernorm", x)
            gate = self.linear(name + ".mlp.gate_proj", y)
            x = x + self.linear(name + ".mlp.down_proj",
                                gate / (1 + np.exp(-gate)) * self.linear(name + ".mlp.up_proj", y))
        return self.weights[self.head + ".weight"] @ self.norm("model.norm", x)
