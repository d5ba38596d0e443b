"""What compare.py measures: each function takes turns with its participants and gives rows of medians."""
import itertools
import json
import statistics
import subprocess
import sys
import tempfile

from turns import Participant, prompt_of

TURNS = itertools.count(1)  # no two have a prompt in common, so nobody's cache knows one
SAME_MODEL = 0.05  # nats apart on average that bf16 explains; other weights are whole nats apart
POOL_MIB = 1024  # KV of 16 streams and of the prompts of earlier turns


def medians(turns, participants, **job):
    """{name: median seconds} of `turns` rounds; in each round every participant has one turn, the first a different one."""
    seconds = {p.name: [] for p in participants}
    for turn in range(turns):
        for i in range(len(participants)):
            p = participants[(turn + i) % len(participants)]
            seconds[p.name].append(p.do(turn=next(TURNS), **job)["seconds"])
    return {name: statistics.median(values) for name, values in seconds.items()}


def warm(participants, **job):
    for p in participants:
        p.do(turn=next(TURNS), **job)


def engine(args, pool_mib=POOL_MIB):
    return Participant("palimpsest", [args.bin / "engine_bench", args.model, args.threads, pool_mib])


def peers(args):
    own = __file__.rsplit("/", 1)[0]
    streams, context = max(args.streams), max(args.prefill + [args.context + args.steps]) + 8
    return [Participant("llama.cpp", [sys.executable, f"{own}/llama_peer.py", args.model, args.threads, streams, context]),
            Participant("transformers", [sys.executable, f"{own}/transformers_peer.py", args.model, args.threads])]


def limits(args, ours, transformers):
    """What this machine can do at most: bytes read and bf16 operations per second."""
    read = ours.do(what="read", bytes=1 << 30, times=5)["bytes_per_s"]
    shape = {"rows": 512, "inputs": 1024, "outputs": 6144}
    seconds = transformers.do(what="products", times=30, **shape)["seconds"]
    weights = (args.model / "model.safetensors").stat().st_size
    config = json.loads((args.model / "config.json").read_text())
    return {"what": "limits", "read_gb_per_s": read / 1e9,
            "gflop_per_s": 2 * shape["rows"] * shape["inputs"] * shape["outputs"] / seconds / 1e9,
            "weights_gb": weights / 1e9, "head_gb": 2 * config["vocab_size"] * config["hidden_size"] / 1e9}


def decode_limit(limit, streams):
    """Steps read all weights (bf16: as many bytes as a token takes operations); KV is not counted."""
    return min(limit["read_gb_per_s"] / limit["weights_gb"] * streams, limit["gflop_per_s"] / limit["weights_gb"])


def prefill_limit(limit, tokens):
    """A prompt passes the head once, its rows everything else; attention is not counted."""
    work = (limit["weights_gb"] - limit["head_gb"]) * tokens + limit["head_gb"]
    return limit["gflop_per_s"] / work * tokens


def rows_of(what, seconds, tokens, limit, **shape):
    return [{"what": what, **shape, "who": who, "seconds": s, "tokens_per_s": tokens / s, "limit_tokens_per_s": limit,
             "share_of_limit": tokens / s / limit} for who, s in seconds.items()]


def compare_peers(args, ours):
    participants = [ours, *peers(args)]
    for p in participants[1:]:
        p.wait_until_ready()
    rows = [limits(args, ours, participants[2]), agreement(args, *participants)]
    for streams in args.streams:
        shape = {"streams": streams, "context": args.context}
        warm(participants, what="decode", steps=4, **shape)
        seconds = medians(args.turns, participants, what="decode", steps=args.steps, **shape)
        rows += rows_of("decode", seconds, streams, decode_limit(rows[0], streams), **shape)
    for tokens in args.prefill:
        shape = {"streams": 1, "context": tokens}
        seconds = medians(args.turns, participants, what="prefill", **shape)
        rows += rows_of("prefill", seconds, tokens, prefill_limit(rows[0], tokens), **shape)
    for p in participants[1:]:
        p.end()
    return rows


def agreement(args, ours, llama, transformers):
    """Greedy tokens of ours, weighed by the others on the same ids: do all three run the same model?"""
    vocab = json.loads((args.model / "config.json").read_text())["vocab_size"]
    prompt = prompt_of(next(TURNS), 0, 32, vocab)
    steps = 16
    drawn = ours.do(what="greedy", ids=prompt, steps=steps, top=20)
    asked = {"what": "weigh", "ids": prompt + drawn["ids"][:-1], "first": len(prompt) - 1,
             "wanted": [top["ids"] for top in drawn["top"]]}
    row = {"what": "agreement", "tokens": steps}
    for p in (transformers, llama):
        weighed = p.do(**asked)
        apart = [abs(a - b) for theirs, top in zip(weighed["logprobs"], drawn["top"])
                 for a, b in zip(theirs, top["logprobs"])]
        if statistics.mean(apart) > SAME_MODEL:
            raise SystemExit(f"{p.name} runs another model: {statistics.mean(apart):.3g} nats apart on average")
        row[p.name] = {"max_nats": max(apart), "mean_nats": statistics.mean(apart),
                       "same_likeliest": sum(a == b for a, b in zip(weighed["likeliest"], drawn["ids"]))}
    return row


def compare_streaming(args, ours):
    """A replica of its own behind gRPC against the engine in process."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        serve = subprocess.Popen(
            [args.bin / "palimpsest", "serve", "--model", args.model, "--folder", folder,
             "--set", "inference.dtype=bfloat16", "--set", f"inference.threads={args.threads}",
             "--set", f"inference.kv_pool_bytes={POOL_MIB}MiB"], stdout=subprocess.PIPE, text=True)
        try:
            address = json.loads(serve.stdout.readline())["server"]
            client = Participant("grpc", [args.bin / "stream_bench", address])
            client.wait_until_ready()
            for streams in args.streams:
                shape = {"streams": streams, "context": args.context}
                warm([ours, client], what="decode", steps=4, **shape)
                seconds = medians(args.turns, [ours, client], what="decode", steps=args.steps, **shape)
                rows.append({"what": "streaming", **shape, "in_process_tokens_per_s": streams / seconds["palimpsest"],
                             "grpc_tokens_per_s": streams / seconds["grpc"],
                             "cost": seconds["grpc"] / seconds["palimpsest"] - 1})
            client.end()
        finally:
            serve.terminate()
            serve.wait()
    return rows


def compare_bound(args):
    """Rollouts in a pool that holds four of them whole: kv_budget of a quarter of their length, whose events may come a quarter
    of it earlier under pressure, against no compaction."""
    whole, samples, prompt = args.bound, 16, 64
    config = json.loads((args.model / "config.json").read_text())
    per_slot = config["num_hidden_layers"] * config["num_key_value_heads"] * (4 * config["head_dim"] + 4)
    pool_mib = 4 * whole * per_slot // 2**20 + 1
    bound = engine(args, pool_mib)
    bound.wait_until_ready()
    budget = whole // 4
    job = {"what": "rollouts", "samples": samples, "context": prompt, "tokens": whole - prompt, "protect": 0,
           "window": budget * 3 // 4, "keep_ratio": 0.25, "early": 0.25, "reference_tokens": 16}
    answers = {0: [], budget: []}
    for turn in range(args.turns):
        for at in sorted(answers, reverse=turn % 2 == 1):
            answers[at].append(bound.do(turn=next(TURNS), budget=at, **job))
    bound.end()
    rate = {at: samples * job["tokens"] / statistics.median(a["seconds"] for a in told) for at, told in answers.items()}
    return [{"what": "memory binds", "pool_mib": pool_mib, "samples": samples, "positions": whole, "budget": budget,
             "tokens_per_s": rate[budget], "tokens_per_s_without": rate[0], "ratio": rate[budget] / rate[0],
             "events": answers[budget][-1]["events"] / samples, "preempted_without": answers[0][-1]["preempted"],
             "preempted": answers[budget][-1]["preempted"]}]


def time_event(args, ours):
    """One event, 1024 -> 256 slots, of a sequence that is alone."""
    told = [ours.do(what="rollouts", turn=next(TURNS), samples=1, context=1000, tokens=64, budget=1024, window=1024,
                    keep_ratio=0.25, reference_tokens=128, protect=0) for _ in range(args.turns)]
    return [{"what": "event", "slots": 1024, "left": 256, "events": told[-1]["events"],
             "seconds": statistics.median(a["event_seconds"] for a in told)}]
