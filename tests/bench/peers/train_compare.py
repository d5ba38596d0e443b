#!/usr/bin/env python3
"""A training step of ours and of transformers + torch over the same tokens, by turns: rows of JSON, then a table.

Usage, from the root of the repository: $PEERS/bin/python tests/bench/peers/train_compare.py MODEL_FOLDER [options]; $PEERS
is the environment that deploy/setup.sh --peers made, MODEL_FOLDER what make_model.py wrote: tests/bench/README.md.
"""
import argparse
import itertools
import json
import os
import pathlib
import statistics
import sys

import compare
from tables import table
from turns import Participant

SAME = {"float32": 1e-3, "bfloat16": 5e-2}  # relative, of losses and of gradients' norms
LEARNING_RATE = 1e-6
CASES = {
    "independent": {"prompts": 4, "prompt": 1, "responses": [255]},
    "group": {"prompts": 1, "prompt": 256, "responses": [128] * 8},
    "ragged group": {"prompts": 1, "prompt": 256, "responses": list(range(72, 185, 16))}}
EVENTS = {"samples": 8, "prompt": 256, "response": 128, "window": 64, "keep_ratio": 0.25, "reference_tokens": 32}
BUDGET = 320  # of 384 positions: an event each 48 tokens


class Alone:
    """A participant that lives for one job, and a step before it: two of a large model do not fit into memory."""

    def __init__(self, name, command):
        self.name, self.command = name, command

    def wait_until_ready(self):
        pass

    def do(self, **job):
        process = Participant(self.name, self.command)
        process.wait_until_ready()
        process.do(**{**job, "turn": job["turn"] + 1_000_000})
        answer = process.do(**job)
        process.end()
        return answer

    def end(self):
        pass


def participants(args, dtype):
    own = pathlib.Path(__file__).parent
    kind = Alone if args.alone else Participant
    return [kind("palimpsest", [args.bin / "train_bench", args.model, args.threads, dtype]),
            kind("transformers", [sys.executable, own / "train_peer.py", args.model, args.threads, dtype])]


def steps(both, turn, **job):
    """{name: answer} of one turn; who is first alternates."""
    return {p.name: p.do(turn=turn, learning_rate=LEARNING_RATE, **job) for p in (both if turn % 2 else reversed(both))}


def differ(dtype, answers, turn):
    """How far losses and norms are apart, relative; ends the run where it is not the same step."""
    ours, theirs = answers["palimpsest"], answers["transformers"]
    apart = {key: abs(ours[key] - theirs[key]) / abs(theirs[key]) for key in ("loss", "grad_norm")}
    if max(apart.values()) > SAME[dtype]:
        raise SystemExit(f"turn {turn}: not the same step: {json.dumps(answers)}")
    return apart


def compare_steps(turns, dtype, both, case):
    answers, apart = [], []
    for turn in turns:
        answers.append(steps(both, turn, what="step", **CASES[case]))
        apart.append(differ(dtype, answers[-1], turn))
    del answers[0]  # a warm-up

    def of(name, key):
        return statistics.median(a[name][key] for a in answers)

    rows = [{"what": "step", "case": case, "dtype": dtype, "who": name, "rows": answers[0][name]["rows"],
             "peak_gb": max(a[name]["peak_bytes"] for a in answers) / 1e9, "before_gb": of(name, "bytes_before") / 1e9,
             **{key: of(name, key) for key in ("seconds", "processor", "forward", "backward", "optimizer")}}
            for name in answers[0]]
    return rows + [{"what": "ratio", "case": case, "dtype": dtype,
                    **{key: of("transformers", key) / of("palimpsest", key) for key in ("seconds", "processor")},
                    "loss_apart": max(a["loss"] for a in apart), "norm_apart": max(a["grad_norm"] for a in apart)}]


def compare_events(turns, dtype, ours):
    """Ours alone: the same tokens with events and without."""
    answers = {0: [], BUDGET: []}
    for turn in turns:
        for budget, told in answers.items():
            told.append(ours.do(what="replay", turn=turn, budget=budget, learning_rate=LEARNING_RATE, **EVENTS))

    def of(budget, key):
        return statistics.median(a[key] for a in answers[budget][1:])  # the first is a warm-up

    with_events, without = (max(a["peak_bytes"] for a in answers[budget][1:]) for budget in (BUDGET, 0))
    return [{"what": "events", "dtype": dtype, "events": of(BUDGET, "events"), "seconds": of(BUDGET, "seconds"),
             "seconds_without": of(0, "seconds"), "ratio": of(BUDGET, "seconds") / of(0, "seconds"),
             "peak_gb": with_events / 1e9, "peak_gb_without": without / 1e9, "peak_ratio": with_events / without,
             "above_standing": (with_events - of(BUDGET, "bytes_before")) / (without - of(0, "bytes_before"))}]


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--alone", action="store_true", help="one process at a time, a new one for each turn, which takes a step before")
    parser.add_argument("--dtypes", default="float32,bfloat16")
    parser.add_argument("--cases", default=",".join([*CASES, "events"]), help="of " + ", ".join([*CASES, "events"]))
    args = parser.parse_args()
    for option, given, known in (("cases", args.cases, [*CASES, "events"]), ("dtypes", args.dtypes, SAME)):
        if set(given.split(",")) - set(known):
            parser.error(f"--{option} {given}: known are {', '.join(known)}")
    if min(args.threads, args.turns) < 1:
        parser.error(f"--threads {args.threads} and --turns {args.turns} must be at least 1")
    return args


def lines(rows):
    for row in rows:
        if row["what"] == "step":
            yield [row["dtype"], row["case"], row["who"], str(row["rows"]),
                   *(f"{row[key]:.2f}" for key in ("seconds", "processor", "forward", "backward", "optimizer", "peak_gb"))]


def main():
    args = arguments()
    numbers = itertools.count(1)  # no two steps learn the same tokens
    layers = json.loads((args.model / "config.json").read_text())["num_hidden_layers"]
    rows = [{**compare.machine(args), "layers": layers}]
    print(json.dumps(rows[0]), flush=True)
    for dtype in args.dtypes.split(","):
        both = participants(args, dtype)
        for p in both:
            p.wait_until_ready()
        for case in args.cases.split(","):
            turns = list(itertools.islice(numbers, args.turns + 1))
            more = (compare_events(turns, dtype, both[0])
                    if case == "events" else compare_steps(turns, dtype, both, case))
            print("\n".join(json.dumps(row) for row in more), flush=True)
            rows += more
        for p in both:
            p.end()
    print(json.dumps({"what": "load", "load_after": os.getloadavg()[0]}), flush=True)
    print(table(["dtype", "case", "who", "rows", "step s", "processor s", "forward", "backward", "optimiser", "peak GB"],
                list(lines(rows))))


if __name__ == "__main__":
    main()
