#!/usr/bin/env python3
"""Our engine, llama.cpp and transformers on one model and one machine, by turns: rows of JSON, then tables.

Usage, from the root of the repository: $PEERS/bin/python tests/bench/peers/compare.py MODEL_FOLDER [options]; $PEERS is
the environment that deploy/setup.sh --peers made, MODEL_FOLDER what make_model.py wrote. tests/bench/README.md says more.
"""
import argparse
import importlib.metadata
import json
import os
import pathlib
import platform
import subprocess

import sections
import tables

PARTS = ("peers", "streaming", "bound", "event")


def machine(args):
    model = next((line.split(":")[1].strip() for line in open("/proc/cpuinfo") if line.startswith("model name")),
                 platform.machine())
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True).stdout.strip()
    versions = {name: importlib.metadata.version(name) for name in ("llama-cpp-python", "transformers", "torch")}
    return {"what": "machine", "cpu": model, "cores": os.cpu_count(), "threads": args.threads, "commit": commit,
            "load_before": os.getloadavg()[0], "omp_wait_policy": os.environ.get("OMP_WAIT_POLICY", "default"), **versions}


def numbers(text):
    values = [int(part) for part in text.split(",")]
    if min(values) < 1:
        raise argparse.ArgumentTypeError(f"{text} holds a number below 1")
    return values


def arguments():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", type=pathlib.Path)
    parser.add_argument("--bin", type=pathlib.Path, default=pathlib.Path("build/release/bin"))
    parser.add_argument("--parts", default=",".join(PARTS), help="of " + ", ".join(PARTS))
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--streams", type=numbers, default=[1, 4, 16])
    parser.add_argument("--context", type=int, default=128, help="tokens before decoding, a multiple of 16 (a page)")
    parser.add_argument("--steps", type=int, default=32)
    parser.add_argument("--prefill", type=numbers, default=[512], help="lengths of a prompt")
    parser.add_argument("--bound", type=int, default=512, help="positions of a rollout where memory binds")
    args = parser.parse_args()
    unknown = set(args.parts.split(",")) - set(PARTS)
    if unknown:
        parser.error(f"--parts {','.join(sorted(unknown))}: known are {', '.join(PARTS)}")
    if args.context % 16 or min(args.context, args.steps, args.turns, args.threads) < 1:
        parser.error(f"--context {args.context} must be a multiple of 16, --steps, --turns and --threads at least 1")
    if args.bound < 256:
        parser.error(f"--bound {args.bound} is below 256: a quarter of it must hold the prompt of 64")
    return args


def main():
    args = arguments()
    parts = args.parts.split(",")
    rows = []

    def told(more):
        for row in more:
            print(json.dumps(row), flush=True)
        rows.extend(more)

    told([machine(args)])
    if "bound" in parts:
        told(sections.compare_bound(args))
    if parts != ["bound"]:
        ours = sections.engine(args)
        ours.wait_until_ready()
        if "event" in parts:
            told(sections.time_event(args, ours))
        if "peers" in parts:
            told(sections.compare_peers(args, ours))
        if "streaming" in parts:
            told(sections.compare_streaming(args, ours))
        ours.end()
    told([{"what": "load", "load_after": os.getloadavg()[0]}])
    print(tables.markdown(rows))


if __name__ == "__main__":
    main()
