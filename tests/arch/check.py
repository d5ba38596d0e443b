#!/usr/bin/env python3
"""Holds the arrows of the architecture: reads every #include and compares folder edges with the table below.

Fails on an edge the table does not list, on a forbidden header, on a file over 500 lines. Usage: check.py ROOT
"""
import pathlib
import re
import sys

BASE = {"common/base"}
EDGES = {
    "common/base": set(),
    "common/config": BASE,
    "common/tls": BASE | {"common/config"},
    "common/http": BASE | {"common/tls"},
    "common/telemetry": BASE | {"common/http", "common/tls"},
    "common/context": BASE,
    "common/tokenizer": BASE,
    "common/weights": BASE,
    "common/compaction": BASE | {"common/context"},
    "common/model": BASE | {"common/weights"},
    "common/attention": BASE | {"common/context", "common/compaction", "common/model"},
    # Kernels: their headers are called from anywhere, so they know numbers and pointers only.
    "common/cuda": BASE,
    "common/attention/cuda": BASE | {"common/cuda", "common/attention"},
    "common/model/cuda": BASE | {"common/cuda"},
    "common/compaction/cuda": BASE | {"common/cuda"},
    "common/rl": BASE | {"common/context", "common/attention", "common/compaction", "common/model"},
    "common/collective": BASE | {"common/tls", "common/weights"},
    "common/wire": BASE | {"common/context", "common/rl", "common/model", "protos"},
    "common/rpc": BASE | {"common/config", "common/telemetry", "common/tls", "protos"},
}
SERVICES = ["inference", "trainer", "orchestrator", "env"]
ROOMS_OF_COMMON = set(EDGES)
CORE_MAY = {"common/base", "common/context", "common/rl"}
ENGINE_MAY = ROOMS_OF_COMMON - {"common/wire", "common/rpc"}
for s in SERVICES:
    core, engine, server = f"services/{s}/core", f"services/{s}/engine", f"services/{s}/server"
    EDGES[core] = set(CORE_MAY)
    EDGES[engine] = ENGINE_MAY | {core}
    EDGES[server] = ROOMS_OF_COMMON | {core, "protos"}
    EDGES[f"services/{s}"] = ROOMS_OF_COMMON | {core, engine, server, "protos"}
# Another way into the replica; only services/inference itself knows that there is one.
EDGES["services/inference/http"] = ROOMS_OF_COMMON | {"services/inference/core", "services/inference/server", "protos"}
EDGES["services/inference"].add("services/inference/http")
# The page of a run reads what the engine's ledger says.
EDGES["services/orchestrator/web"] = ROOMS_OF_COMMON | {"services/orchestrator/core", "services/orchestrator/engine"}
EDGES["services/orchestrator"].add("services/orchestrator/web")
# Before the replicas: no engine, and nothing of a replica's server.
EDGES["services/inference/router"] = ROOMS_OF_COMMON | {"services/inference/core", "protos"}
EDGES["services/inference"].add("services/inference/router")
# The command runs the engine in process: `palimpsest generate --model DIR`.
EDGES["tools"] = ROOMS_OF_COMMON | {"protos", "services/inference/core", "services/inference/engine"}

TORCH, GRPC, PROTO, YAML = r"^(torch|ATen|c10)/", r"^grpc", r"(^google/protobuf/|\.pb\.h$)", r"^yaml-cpp/"
# room prefix -> headers that may not appear there
FORBID = [
    (r"^services/[^/]+/core$", [TORCH, GRPC, PROTO, YAML, r"^cuda"]),
    (r"^services/([^/]+/engine|orchestrator/web)$", [GRPC, PROTO]),
    (r"^common/(tls|http|context|tokenizer|weights|attention|compaction|model|rl)$", [GRPC, PROTO, YAML]),
    (r"^common/(base|config|tls|http|telemetry|context|tokenizer|weights|rpc|wire|(.*/)?cuda)$", [TORCH]),
    (r"^(common/(?!config)|services|tools).*$", [YAML]),
]
# Headers never drag the heavy ones along; only .cc files include them. A header of tensors is named *_torch.h and may be
# included by .cc files and other *_torch.h only.
FORBID_IN_HEADERS = [TORCH, YAML, r"_torch\.h$"]
MAX_LINES = 500


def room_of(path: str) -> str | None:
    parts = path.split("/")
    for depth in range(len(parts) - 1, 0, -1):
        room = "/".join(parts[:depth])
        if room in EDGES:
            return room
        if room == "protos":
            return room
    return None


def check(root: pathlib.Path) -> list[str]:
    errors = []
    files = [p for top in ("common", "services", "tools") for ext in ("*.h", "*.cc", "*.cu", "*.cuh")
             for p in sorted((root / top).rglob(ext))]
    for path in files:
        rel = path.relative_to(root).as_posix()
        room = room_of(rel)
        text = path.read_text()
        if text.count("\n") > MAX_LINES:
            errors.append(f"{rel}: {text.count(chr(10))} lines, at most {MAX_LINES}")
        if room is None:
            errors.append(f"{rel}: stands in no room of the table")
            continue
        for number, line in enumerate(text.splitlines(), 1):
            match = re.match(r'\s*#\s*include\s+[<"]([^>"]+)[>"]', line)
            if not match:
                continue
            header = match.group(1)
            where = f"{rel}:{number}"
            target = room_of(header) if header.startswith(("common/", "services/", "tools/", "protos/", "palimpsest/v1/")) else None
            if header.startswith("palimpsest/v1/"):
                target = "protos"
            if target and target != room and target not in EDGES[room]:
                errors.append(f"{where}: {room} -> {target} is not an arrow of the table")
            rules = [p for prefix, patterns in FORBID if re.match(prefix, room) for p in patterns]
            if rel.endswith((".h", ".cuh")) and not rel.endswith("_torch.h"):
                rules += FORBID_IN_HEADERS
            if any(re.search(p, header) for p in rules):
                errors.append(f"{where}: {header} may not be included here")
    return errors + cycles()


def cycles() -> list[str]:
    state: dict[str, int] = {}
    found: list[str] = []

    def visit(room: str, trail: list[str]) -> None:
        if state.get(room) == 1:
            found.append("cycle in the table: " + " -> ".join(trail + [room]))
        if state.get(room):
            return
        state[room] = 1
        for target in EDGES.get(room, ()):
            visit(target, trail + [room])
        state[room] = 2

    for room in EDGES:
        visit(room, [])
    return found


if __name__ == "__main__":
    problems = check(pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else "."))
    print("\n".join(problems) if problems else "arch: all arrows as drawn")
    sys.exit(1 if problems else 0)
