#!/usr/bin/env python3
"""Makes cases.json: what `palimpsest generate` must print for tiny models, computed by simulator.py alone.

Needs numpy, safetensors and libxxhash.so.0. Usage: make.py > cases.json   (what was left out and why: on stderr)

A sampled id, or a kept position, hangs on the rounding of fp32 where two of them are nearly as good. So a case draws its
prompt and its seed anew until every draw is further than DRAW_MARGIN from falling differently and every choice is
decided by more than CHOICE_MARGIN; without such a seed it is left out.
"""
import json
import math
import pathlib
import random
import sys

from decoder import Decoder
from simulator import Policy, simulate

MODELS = pathlib.Path(__file__).parent.parent / "model"
DRAW_MARGIN = 2e-5    # in probability; for greedy in logits
CHOICE_MARGIN = 1e-4  # relative
TRIES = 50

QWEN3, QWEN2, LLAMA = "qwen3_tied", "qwen2_bias", "llama3_scaling"
BUDGET = dict(budget=30, window=12, keep_ratio=0.5, reference_tokens=16)


def case(name, model, trigger, prompt=12, tokens=60, temperature=1.0, **settings):
    return dict(name=name, model=model, context=trigger, prompt=prompt, tokens=tokens, temperature=temperature,
                set=settings)


def budget(name, model, prompt=12, tokens=60, temperature=1.0, **settings):
    return case(name, model, "kv_budget", prompt, tokens, temperature, **BUDGET | settings)


def segments(name, model, prompt=12, tokens=60, temperature=1.0, **settings):
    return case(name, model, "segments", prompt, tokens, temperature, **settings)


CASES = [
    budget("attention_matching with its defaults", QWEN3),
    budget("a model with biases", QWEN2),
    budget("scaled rotary frequencies, one KV head", LLAMA),
    budget("greedy", QWEN2, temperature=0.0),
    budget("temperature 0.7", LLAMA, temperature=0.7, keep_ratio=0.25),
    budget("windows that reach into the prompt, all of it listened to", QWEN3, prompt=40, protect=3, keep_ratio=0.4,
           reference_tokens=1000),
    budget("nothing is protected", QWEN2, prompt=40, protect=0, keep_ratio=0.4, reference_tokens=10),
    budget("compact blocks are not compacted again", QWEN3, budget=44, stack=True, keep_ratio=0.3, tokens=90),
    budget("out of room while it generates", LLAMA, budget=26, stack=True, keep_ratio=0.6, tokens=90),
    budget("only what comes after the window is listened to", LLAMA, prompt=30, protect=5, window=16,
           keep_ratio=0.25, after_window=True, holdout_every=3),
    budget("an empty range behind the window falls back", QWEN3, prompt=20, protect=0, budget=12,
           after_window=True),
    budget("held-out queries", QWEN2, reference_tokens=20, holdout_every=4),
    budget("one reference position", QWEN3, reference_tokens=1, window=6),
    budget("one slot a window", QWEN3, method="evict", window=1, keep_ratio=0.5),
    budget("keys are listened to", QWEN3, reference_kind="keys"),
    budget("random vectors are listened to", QWEN2, reference_kind="random", seed=7),
    budget("chooser mean", QWEN3, chooser="mean"),
    budget("chooser max", QWEN2, chooser="max"),
    budget("chooser omp within tight bounds", QWEN3, chooser="omp", reference_tokens=20, log_lower=-0.1,
           log_upper=0.1),
    budget("what slots have received at all events", QWEN3, chooser="accumulated"),
    budget("the carried maximum by shares", QWEN2, chooser="carried_max", keep_ratio=0.4),
    budget("diverse keys", LLAMA, chooser="diverse", keep_ratio=0.4),
    budget("strong priors", LLAMA, mu=0.5, **{"lambda": 2.0}, keep_ratio=0.25),
    budget("evict by attention", QWEN3, prompt=9, protect=13, method="evict", keep_ratio=0.4,
           reference_tokens=10),
    budget("evict by attention, nothing protected, held out", LLAMA, method="evict", prompt=40, protect=0,
           holdout_every=2),
    budget("evict the older", QWEN2, method="evict", chooser="recent", keep_ratio=0.3),
    budget("evict all but one in a hundred", QWEN3, method="evict", chooser="recent", keep_ratio=0.99),
    budget("evict by chance", QWEN3, method="evict", chooser="random", seed=5),
    budget("evict what has received least, held out", LLAMA, method="evict", chooser="accumulated", holdout_every=3),
    budget("evict by the carried maximum, nothing protected", QWEN3, method="evict", chooser="carried_max", prompt=40,
           protect=0, tokens=90),
    budget("evict what is alike", QWEN2, method="evict", chooser="diverse", keep_ratio=0.3),
    budget("evict everything", LLAMA, method="evict", chooser="recent", keep_ratio=0.0),
    budget("markovian", QWEN2, method="markovian"),
    budget("up to the last position of the model", QWEN3, prompt=470, tokens=42, protect=2, budget=40, window=24),
    segments("segments over a protected start", QWEN3, prompt=50, protect=4, every=9, window=11, keep_ratio=0.3,
             chooser="mean"),
    segments("segments keep one slot", QWEN2, prompt=20, every=5, window=20, keep_ratio=0.0, chooser="max",
             reference_tokens=64),
    segments("segments that share by covered positions", LLAMA, prompt=30, protect=4, every=7, window=12,
             keep_ratio=0.5, chooser="carried_max", tokens=90),
    segments("segments wait for a full window", QWEN3, every=3, window=10, keep_ratio=0.5, stack=True,
             method="markovian"),
]


def rounded(out: dict) -> dict:
    quality = [{k: float(f"{v:.9g}") for k, v in e["quality"].items()} for e in out["events"]]
    return out | dict(logprobs=[round(x, 9) for x in out["logprobs"]],
                      events=[e | dict(quality=q) for e, q in zip(out["events"], quality)])


def attempt(spec: dict, decoder: Decoder, seed: int):
    rng = random.Random(f"{spec['name']} {seed}")
    prompt = [rng.randrange(decoder.vocabulary) for _ in range(spec["prompt"])]
    policy = Policy.of(spec["context"], spec["set"])
    out, draw_margin, choice_margin = simulate(decoder, prompt, policy, spec["tokens"], spec["temperature"], seed)
    fine = draw_margin > DRAW_MARGIN and choice_margin > CHOICE_MARGIN and not math.isnan(choice_margin)
    return fine, spec | dict(prompt=prompt, seed=seed) | rounded(out)


def main():
    decoders = {name: Decoder(MODELS / name) for name in (QWEN3, QWEN2, LLAMA)}
    lines = []
    for spec in CASES:
        tried = (attempt(spec, decoders[spec["model"]], seed) for seed in range(TRIES))
        made = next((golden for fine, golden in tried if fine), None)
        if made is None:
            print(f"left out, {TRIES} seeds are too close to call: {spec['name']}", file=sys.stderr)
            continue
        lines.append(json.dumps(made, separators=(",", ":")))
        print(f"{spec['name']}: seed {made['seed']}, {len(made['ids'])} tokens, {len(made['events'])} events",
              file=sys.stderr)
    print("[\n" + ",\n".join(lines) + "\n]")


if __name__ == "__main__":
    main()
