#!/usr/bin/env python3
"""What the parts of `tests/run.sh --long` came to, as Markdown on stdout.

Usage: report.py FOLDER, which holds PART.xml, a JUnit file of ctest, and PART.where for each part that was run; a part with the
second alone could not be built. report.py --where says where we are: commit, date and machine. report.py --skipped FOLDER PART..
names the tests of these parts that were skipped; exit code 1 when there are some, unless PALIMPSEST_ALLOW_SKIPS is 1.
"""
import datetime
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

NOTE = re.compile(r"(?:^|\.\.\. )long: (.*)")  # unittest may have begun the line with the test's name
PARTS = {"gate": "The gate", "long": "The long tests", "asan": "Under the preset asan", "tsan": "Under the preset tsan"}


def outcome(case):
    """passed, failed or skipped: what ctest has not run at all counts as skipped."""
    if case.find("failure") is not None:
        return "failed"
    return "passed" if case.get("status") == "run" else "skipped"


def note(case):
    """The lines that the test wanted to be read here."""
    said = [found[1] for line in (case.findtext("system-out") or "").splitlines() if (found := NOTE.search(line))]
    return "; ".join(said).replace("|", "/")


def minutes(seconds):
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.1f} min"


def table(cases):
    rows = ["| test | outcome | time | what it says |", "|---|---|---|---|"]
    for case in sorted(cases, key=lambda case: case.get("name")):
        rows.append(f"| {case.get('name')} | {outcome(case)} | {minutes(float(case.get('time')))} | {note(case)} |")
    return rows


def counts(cases):
    count = {kind: sum(outcome(case) == kind for case in cases) for kind in ("passed", "failed", "skipped")}
    return f"{count['passed']} of {len(cases)} tests passed, {count['failed']} failed, {count['skipped']} were skipped."


def section(part, where, cases):
    """`where`: None when the part was not run; `cases`: None when it could not be built."""
    lines = [f"## {PARTS[part]}", ""]
    if where is None:
        return [*lines, "Not run.", ""]
    if cases is None:
        return [*lines, f"{where} It was not built, no test ran.", ""]
    lines += [f"{where} {counts(cases)}", ""]
    listed = table(cases) if part == "long" else [
        f"- `{case.get('name')}`: {outcome(case)}" for case in cases if outcome(case) != "passed"]
    return [*lines, *listed, *([""] if listed else [])]


def report(parts):
    """`parts`: where it was run and its test cases, by name of the part."""
    lines = ["# The long tests", "", "Written by `tests/run.sh --long`.", ""]
    for part in PARTS:
        lines += section(part, *parts.get(part, (None, None)))
    return "\n".join(lines)


def read(folder):
    """The parts that a folder knows of."""
    parts = {}
    for part in PARTS:
        where, said = folder / f"{part}.where", folder / f"{part}.xml"
        if where.exists():
            cases = list(xml.parse(said).getroot().iter("testcase")) if said.exists() else None
            parts[part] = where.read_text().strip(), cases
    return parts


def git(*words):
    return subprocess.run(["git", *words], capture_output=True, text=True, timeout=60).stdout.strip()


def this_host():
    """Kind and size of the machine, not its name."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", info, re.M)
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) >> 20
    return f"{len(os.sched_getaffinity(0))} cores ({model[1] if model else os.uname().machine}), {memory} GiB, Linux {os.uname().release}"


def where():
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ".", ":!docs/results/long.md")
    commit = git("rev-parse", "--short", "HEAD") + (" with changes" if changed else "")
    return f"Commit {commit}, {datetime.date.today().isoformat()}, {this_host()}."


def skipped(parts):
    """One line a part that skipped a test."""
    lines = []
    for part, (_, cases) in parts.items():
        names = sorted(case.get("name") for case in cases or [] if outcome(case) == "skipped")
        if names:
            lines.append(f"SKIPPED, nothing proven: {len(names)} of {len(cases)} tests of {part}: {', '.join(names)}")
    return lines


def main(word, *more):
    if word == "--skipped":
        known = read(pathlib.Path(more[0]))
        lines = skipped({part: known[part] for part in more[1:] if part in known})
        print("\n".join(lines or ["no test was skipped"]))
        return 1 if lines and os.environ.get("PALIMPSEST_ALLOW_SKIPS") != "1" else 0
    sys.stdout.write(where() + "\n" if word == "--where" else report(read(pathlib.Path(word))))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
