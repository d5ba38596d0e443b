#!/usr/bin/env python3
"""Tells Prometheus where the daemons of a run are: from <run>/addresses/ to a file of targets for file_sd.

Usage: targets.py RUN_FOLDER --out targets/NAME.json --metrics env=PORT --metrics inference=PORT .. [--run NAME]
                  [--every SECONDS]

An address file tells role, rank and host of a daemon that lives, but not the port of its /metrics. That port is fixed in the
run's YAML (`inference.metrics: 127.0.0.1:9102`) and repeated here, by role or, where a host holds several ranks of a role,
by role and rank (`inference-1=9103`). Without --every it writes once; exit code 1 if a daemon had to be left out.
"""
import argparse
import json
import os
import pathlib
import re
import socket
import sys
import time

ADDRESS = re.compile(r"(?P<host>\S+):\d+\npid \d+\n")
DAEMON = re.compile(r"(?P<role>[a-z_]+)-(?P<rank>\d+)")
OTHER_DOORS = {"http", "router_http", "page"}  # of a daemon that has an address file already
LOOPBACK = re.compile(r"127\.|localhost$|\[::1\]$")


def read_targets(run_folder, run, ports):
    """(targets of the daemons that live, what is wrong with the others)"""
    targets, wrong = [], []
    folder = pathlib.Path(run_folder, "addresses")
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        name = DAEMON.fullmatch(path.name)
        if not name or name["role"] in OTHER_DOORS:
            continue  # not named: a file on its way to its name
        try:
            address = ADDRESS.fullmatch(path.read_text())
        except FileNotFoundError:
            continue  # it ended just now
        port = ports.get(path.name, ports.get(name["role"]))
        if not address:
            wrong.append(f"{path} holds no address")
        elif port is None:
            wrong.append(f"{path.name}: no --metrics {name['role']}=PORT")
        else:
            host = address["host"]
            node = socket.gethostname() if LOOPBACK.match(host) else host
            targets.append({"targets": [f"{host}:{port}"],
                            "labels": {"run": run, "role": name["role"], "rank": name["rank"], "node": node}})
    return targets, wrong


def write(path, targets):
    """By rename: Prometheus reads the old targets or the new ones. Nothing is done where nothing changed."""
    text = json.dumps(targets, indent=1) + "\n"
    if path.exists() and path.read_text() == text:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    with open(temporary, "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)


def port_of(text):
    """`inference=9102` -> ("inference", 9102)"""
    match = re.fullmatch(r"([a-z_]+(?:-\d+)?)=(\d+)", text)
    if not match or not 0 < int(match[2]) < 65536:
        raise argparse.ArgumentTypeError(f"{text!r} is no ROLE=PORT")
    return match[1], int(match[2])


def main():
    parser = argparse.ArgumentParser(usage=__doc__.split("Usage: ")[1].split("\n\n")[0])
    parser.add_argument("run_folder", type=pathlib.Path)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--metrics", type=port_of, action="append", required=True)
    parser.add_argument("--run")
    parser.add_argument("--every", type=float)
    options = parser.parse_args()
    told = []
    while True:
        targets, wrong = read_targets(options.run_folder, options.run or options.run_folder.resolve().name,
                                      dict(options.metrics))
        write(options.out, targets)
        if wrong != told:
            print(*(f"targets: {line}" for line in wrong), sep="\n", end="\n" if wrong else "", file=sys.stderr)
            told = wrong
        if options.every is None:
            return 1 if wrong else 0
        time.sleep(options.every)


if __name__ == "__main__":
    sys.exit(main())
