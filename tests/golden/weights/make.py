#!/usr/bin/env python3
"""Writes the safetensors goldens with the Python libraries, beside this script; reads back what our writer wrote.

Needs torch and safetensors. Usage: make.py          (make single/, sharded/ and expected.json)
                                    make.py check    (read ours.safetensors with Python, compare)
"""
import json
import pathlib
import sys

import torch
from safetensors.torch import load_file, save_file

HERE = pathlib.Path(__file__).parent
NAMES = {torch.bool: "BOOL", torch.uint8: "U8", torch.int32: "I32", torch.int64: "I64", torch.float16: "F16",
         torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}


def tensors() -> dict[str, torch.Tensor]:
    ramp = torch.arange(12, dtype=torch.float32).reshape(3, 4)
    return {
        "embed.weight": (ramp / 7 - 0.5).to(torch.bfloat16),
        "norm.weight": (1 + ramp[0] / 3).to(torch.float32),
        "half": (ramp[:, :1] * 0.1).to(torch.float16),
        "double": torch.tensor([1 / 3, -2.0], dtype=torch.float64),
        "ids": torch.tensor([[1, -2], [2**40, 0]], dtype=torch.int64),
        "counts": torch.tensor([7, -8, 9], dtype=torch.int32),
        "mask": torch.tensor([True, False, True]),
        "bytes": torch.tensor([0, 255, 128], dtype=torch.uint8),
        "scalar": torch.tensor(2.5, dtype=torch.float32),
        "empty": torch.zeros((0, 5), dtype=torch.bfloat16),
    }


def raw(tensor: torch.Tensor) -> str:
    return bytes(tensor.contiguous().reshape(-1).view(torch.uint8).tolist()).hex() if tensor.numel() else ""


def describe(named: dict[str, torch.Tensor]) -> dict:
    return {name: {"dtype": NAMES[t.dtype], "shape": list(t.shape),
                   "bytes": raw(t.reshape(1) if t.dim() == 0 else t)} for name, t in named.items()}


def make() -> None:
    named = tensors()
    (HERE / "single").mkdir(exist_ok=True)
    (HERE / "sharded").mkdir(exist_ok=True)
    save_file(named, HERE / "single" / "model.safetensors", metadata={"format": "pt", "note": "größer"})
    order = sorted(named)
    shards = {"model-00001-of-00002.safetensors": order[:5], "model-00002-of-00002.safetensors": order[5:]}
    for shard, members in shards.items():
        save_file({n: named[n] for n in members}, HERE / "sharded" / shard, metadata={"format": "pt"})
    index = {"metadata": {"total_size": sum(t.numel() * t.element_size() for t in named.values())},
             "weight_map": {n: shard for shard, members in shards.items() for n in members}}
    (HERE / "sharded" / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
    (HERE / "expected.json").write_text(json.dumps(describe(named), indent=1, sort_keys=True) + "\n")


def check() -> None:
    found, want = load_file(HERE / "ours.safetensors"), tensors()
    assert describe(found) == describe(want), "ours.safetensors does not hold what Python would have written"
    print("ours.safetensors: read by Python,", len(found), "tensors equal")


if __name__ == "__main__":
    check() if sys.argv[1:] == ["check"] else make()
