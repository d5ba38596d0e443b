#!/usr/bin/env python3
"""Golden records and digests of the context log, written from common/context/README.md alone.

Usage: make.py > digests.json   (needs libxxhash.so.0)
"""
import ctypes
import json
import random
import struct

METHODS = {"attention_matching": 1, "evict": 2, "markovian": 3}
CHOOSERS = {"rms": 1, "mean": 2, "max": 3, "omp": 4, "attention": 5, "recent": 6, "random": 7,
            "accumulated": 8, "carried_max": 9, "diverse": 10}
KINDS = {"queries": 1, "keys": 2, "random": 3}


class Hash128(ctypes.Structure):
    _fields_ = [("low", ctypes.c_uint64), ("high", ctypes.c_uint64)]


def xxh3_128(data: bytes) -> bytes:
    function = ctypes.CDLL("libxxhash.so.0").XXH3_128bits
    function.restype = Hash128
    function.argtypes = [ctypes.c_char_p, ctypes.c_size_t]
    value = function(data, len(data))
    return struct.pack(">QQ", value.high, value.low)


def bitmap(begin: int, end: int, kept: list[int]) -> bytes:
    number = sum(1 << (p - begin) for p in kept)
    return number.to_bytes((end - begin + 7) // 8, "little")


def record(event: dict, layers: int, heads: int) -> bytes:
    begin, end = event["window"]
    head = struct.pack(
        "<IIIBddddBBQiIIII", event["at"], begin, end, METHODS[event["method"]], event["mu"], event["lambda"],
        event["log_lower"], event["log_upper"], CHOOSERS[event["chooser"]], KINDS[event["reference_kind"]],
        event["seed"], event["holdout_every"], *event["reference"], layers, heads)
    return head + b"".join(bitmap(begin, end, kept) for kept in event["kept"])


def make_event(rng: random.Random, at: int, window: list[int], live: list[list[int]], **fields) -> dict:
    event = {
        "at": at, "window": window, "method": "attention_matching", "mu": 1e-2, "lambda": 1e-2, "log_lower": -7.0,
        "log_upper": 7.0, "chooser": "rms", "reference_kind": "queries", "seed": 0, "holdout_every": 0,
        "reference": [max(0, at - 128), at],
    }
    event.update(fields)
    inside = [[p for p in slots if window[0] <= p < window[1]] for slots in live]
    counts = [0 if event["method"] == "markovian" else rng.randint(1, len(slots)) for slots in inside]
    event["kept"] = [sorted(rng.sample(slots, n)) for slots, n in zip(inside, counts)]
    for slots, kept in zip(live, event["kept"]):
        slots[:] = [p for p in slots if not window[0] <= p < window[1] or p in kept]
    return event


def make_case(name: str, seed: int, layers: int, heads: int, plan: list[dict], vocabulary: int) -> dict:
    rng = random.Random(seed)
    tokens = [rng.randrange(vocabulary) for _ in range(plan[-1]["at"] + 3)]
    live = [[] for _ in range(layers * heads)]
    events, previous, previous_at = [], bytes(16), 0
    for fields in plan:
        for slots in live:
            slots.extend(range(previous_at, fields["at"]))
        event = make_event(rng, live=live, **fields)
        raw = record(event, layers, heads)
        ids = struct.pack(f"<{fields['at'] - previous_at}I", *tokens[previous_at:fields["at"]])
        previous = xxh3_128(previous + ids + raw)
        previous_at = fields["at"]
        events.append(event | {"record": raw.hex(), "digest": previous.hex()})
    return {"name": name, "layers": layers, "kv_heads": heads, "tokens": tokens, "events": events}


def main() -> None:
    cases = [
        make_case("one head, one event", 1, 1, 1, [{"at": 5, "window": [1, 4]}], 16),
        make_case("every field off its default, windows across byte edges", 2, 3, 2, [
            {"at": 40, "window": [3, 20], "mu": 0.5, "lambda": 1 / 3, "log_lower": -3.25, "log_upper": 1e-3,
             "chooser": "omp", "reference_kind": "random", "seed": 2**64 - 1, "holdout_every": 7,
             "reference": [30, 39]},
            {"at": 41, "window": [3, 28], "chooser": "max", "reference_kind": "keys", "seed": 2**63 + 5},
            {"at": 90, "window": [28, 36], "chooser": "mean", "reference": [36, 90]},
        ], 151936),
        make_case("evict and markovian", 3, 2, 4, [
            {"at": 16, "window": [4, 12], "method": "evict", "chooser": "attention", "reference": [0, 16]},
            {"at": 24, "window": [4, 20], "method": "evict", "chooser": "recent", "reference": [0, 0]},
            {"at": 32, "window": [4, 24], "method": "evict", "chooser": "random", "reference": [0, 0], "seed": 12},
            {"at": 48, "window": [0, 32], "method": "markovian", "reference": [0, 0]},
            {"at": 49, "window": [32, 33], "method": "markovian", "reference": [0, 0]},
        ], 2**31),
        make_case("a long log", 4, 4, 2, [{"at": 500 + 300 * k, "window": [100, 400 + 300 * k]} for k in range(6)],
                  32000),
        make_case("choosers that carry", 5, 2, 2, [
            {"at": 16, "window": [4, 12], "method": "evict", "chooser": "accumulated", "reference": [0, 16]},
            {"at": 24, "window": [4, 20], "chooser": "carried_max", "reference": [8, 24]},
            {"at": 32, "window": [4, 28], "method": "evict", "chooser": "diverse", "reference": [16, 32]},
            {"at": 40, "window": [4, 36], "method": "markovian", "chooser": "diverse", "reference": [0, 0]},
        ], 1000),
    ]
    print(json.dumps(cases, separators=(",", ":")).replace('{"name"', '\n{"name"'))


if __name__ == "__main__":
    main()
