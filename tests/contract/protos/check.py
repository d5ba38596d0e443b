#!/usr/bin/env python3
"""Holds the wire: compares all fields, enum values and RPCs of protos/ with the committed table fields.txt.

A line of the table is "<full name> <number> <label> <type>" or the like. Lines may be added, none may change or go
unless its number and name are reserved. Needs protoc only. Usage: check.py ROOT [--write]
"""
import pathlib
import re
import subprocess
import sys


def descriptor_text(root: pathlib.Path) -> str:
    """The FileDescriptorSet in protobuf's text form."""
    protos = root / "protos"
    files = sorted(p.relative_to(protos).as_posix() for p in protos.rglob("*.proto"))
    make = subprocess.run(["protoc", "-I", protos, "--include_imports", "-o", "/dev/stdout", *files],
                          check=True, capture_output=True)
    include = next(p for p in ("/usr/include", "/usr/local/include")
                   if pathlib.Path(p, "google/protobuf/descriptor.proto").exists())
    show = subprocess.run(["protoc", "-I", include, "--decode=google.protobuf.FileDescriptorSet",
                           "google/protobuf/descriptor.proto"], input=make.stdout, check=True, capture_output=True)
    return show.stdout.decode()


def parse(text: str) -> dict:
    """Text form -> nested dict of lists; enough for descriptors."""
    root: dict = {}
    stack = [root]
    for line in text.splitlines():
        line = line.strip()
        if line.endswith("{"):
            child: dict = {}
            stack[-1].setdefault(line[:-1].strip(), []).append(child)
            stack.append(child)
        elif line == "}":
            stack.pop()
        elif line:
            key, value = line.split(": ", 1)
            stack[-1].setdefault(key, []).append(value.strip('"'))
    return root


def one(node: dict, key: str, default: str = "") -> str:
    return node.get(key, [default])[0]


def table(root: dict) -> tuple[dict[str, str], set[str]]:
    """Full name -> its line's rest, and what is reserved: "message#number" and "message.name"."""
    rows: dict[str, str] = {}
    reserved: set[str] = set()

    def enum(node: dict, scope: str) -> None:
        name = f"{scope}.{one(node, 'name')}"
        for value in node.get("value", []):
            rows[f"{name}.{one(value, 'name')}"] = f"{one(value, 'number', '0')} value"
        note_reserved(node, name, inclusive=True)

    def note_reserved(node: dict, name: str, inclusive: bool) -> None:
        for run in node.get("reserved_range", []):
            end = int(one(run, "end", "0")) + (1 if inclusive else 0)
            reserved.update(f"{name}#{n}" for n in range(int(one(run, "start", "0")), end))
        reserved.update(f"{name}.{n}" for n in node.get("reserved_name", []))

    def message(node: dict, scope: str) -> None:
        name = f"{scope}.{one(node, 'name')}"
        for field in node.get("field", []):
            label = one(field, "label").removeprefix("LABEL_").lower()
            if label == "optional":
                label = "optional" if one(field, "proto3_optional") == "true" else "single"
            kind = one(field, "type_name") or one(field, "type").removeprefix("TYPE_").lower()
            if "oneof_index" in field and label == "single":
                label = "oneof"
            rows[f"{name}.{one(field, 'name')}"] = f"{one(field, 'number')} {label} {kind.lstrip('.')}"
        note_reserved(node, name, inclusive=False)
        for child in node.get("nested_type", []):
            message(child, name)
        for child in node.get("enum_type", []):
            enum(child, name)

    for file in root["file"]:
        scope = one(file, "package")
        for node in file.get("message_type", []):
            message(node, scope)
        for node in file.get("enum_type", []):
            enum(node, scope)
        for node in file.get("service", []):
            for rpc in node.get("method", []):
                stream = "stream " if one(rpc, "server_streaming") == "true" else ""
                rows[f"{scope}.{one(node, 'name')}.{one(rpc, 'name')}"] = (
                    f"rpc {one(rpc, 'input_type').lstrip('.')} -> {stream}{one(rpc, 'output_type').lstrip('.')}")
    return rows, reserved


def compare(old: dict[str, str], new: dict[str, str], reserved: set[str]) -> list[str]:
    problems = []
    for name, row in old.items():
        if name not in new:
            owner, number = name.rsplit(".", 1)[0], row.split()[0]
            if not ({f"{owner}#{number}", name} <= reserved):
                problems.append(f"{name} ({row}): gone, and its number and name are not both reserved")
        elif new[name] != row:
            problems.append(f"{name}: was '{row}', is '{new[name]}'")
    return problems


def self_test(rows: dict[str, str]) -> list[str]:
    """The comparison must see a removal, another number and another type, and let an addition pass."""
    name = next(n for n, r in rows.items() if re.match(r"\d+ single", r))
    number, rest = rows[name].split(" ", 1)
    failures = []
    for label, other in (("removal", {n: r for n, r in rows.items() if n != name}),
                         ("renumber", rows | {name: f"{int(number) + 1000} {rest}"}),
                         ("retype", rows | {name: f"{number} single fixed32"})):
        if not compare(rows, other, set()):
            failures.append(f"self-test: {label} of {name} was not seen")
    if compare(rows, rows | {"palimpsest.v1.New.field": "1 single int32"}, set()):
        failures.append("self-test: an addition was refused")
    owner = name.rsplit(".", 1)[0]
    if compare(rows, {n: r for n, r in rows.items() if n != name}, {f"{owner}#{number}", name}):
        failures.append("self-test: a reserved removal was refused")
    return failures


def main() -> int:
    root = pathlib.Path(sys.argv[1] if len(sys.argv) > 1 else ".")
    golden = pathlib.Path(__file__).with_name("fields.txt")
    rows, reserved = table(parse(descriptor_text(root)))
    old = dict(line.split(" ", 1) for line in golden.read_text().splitlines()) if golden.exists() else {}
    problems = compare(old, rows, reserved) + self_test(rows)
    if "--write" in sys.argv and not problems:
        golden.write_text("".join(f"{name} {row}\n" for name, row in sorted(rows.items())))
    elif not old:
        problems.append(f"{golden} is missing")
    print("\n".join(problems) if problems else f"protos: {len(rows)} rows, {len(old)} recorded, all as they were")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
