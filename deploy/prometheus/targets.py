#!/usr/bin/env python3
"""Tells Prometheus where the daemons of a run are: from <run>/addresses/ to a file of targets for file_sd.

Usage: targets.py RUN_FOLDER --out targets/NAME.json [--run NAME] [--every SECONDS] [--metrics ROLE=PORT ..]

An address file tells role and rank of a daemon that lives, and where its /metrics stands. Where others reach them by another port
(or an older build does not tell), --metrics says it: by role or, where a host holds several ranks of a
role, by role and rank (`inference-1=9103`). Without --every it writes once; exit code 1 if a daemon had to be left out.
"""
import argparse
import json
import os
import pathlib
import re
import socket
import sys
import time

ADDRESS = re.compile(r"(?P<host>\S+):\d+\n(metrics (?P<metrics>\S+:\d+)\n)?pid \d+\n")
DAEMON = re.compile(r"(?P<role>[a-z_]+)-(?P<rank>\d+)")
OTHER_DOORS = {"http", "router_http", "page"}  # of a daemon that has an address file already
LOOPBACK = re.compile(r"(127\.[\d.]+|localhost|\[::1\])(:|$)")


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
            continue
        host, metrics = address["host"], address["metrics"]
        here = LOOPBACK.match(host) or host == socket.gethostname()
        if port is None and metrics is None:
            wrong.append(f"{path.name} does not tell where its metrics are: --metrics {name['role']}=PORT")
        elif port is None and LOOPBACK.match(metrics) and not here:
            wrong.append(f"{path.name}: {metrics} is reached from {host} alone; set {name['role']}.metrics of its configuration")
        else:
            node = socket.gethostname() if here else host
            targets.append({"targets": [f"{host}:{port}" if port else metrics],
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
    parser.add_argument("--metrics", type=port_of, action="append", default=[])
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
