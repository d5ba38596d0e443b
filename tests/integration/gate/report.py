#!/usr/bin/env python3
"""What `tests/run.sh --long` came to, as Markdown on stdout.

Usage: report.py GATE.xml LONG.xml [PRESET.xml ..], JUnit files of ctest. A preset whose file is not there was not built.
"""
import datetime
import os
import pathlib
import re
import subprocess
import sys
import xml.etree.ElementTree as xml

NOTE = "long: "


def outcome(case):
    """passed, failed or skipped: what ctest has not run at all counts as skipped."""
    if case.find("failure") is not None:
        return "failed"
    return "passed" if case.get("status") == "run" else "skipped"


def note(case):
    """The last line that the test wanted to be read here."""
    said = [line for line in (case.findtext("system-out") or "").splitlines() if line.startswith(NOTE)]
    return said[-1].removeprefix(NOTE).replace("|", "/") if said else ""


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


def exceptions(cases, where):
    return [f"- `{case.get('name')}` {where}: {outcome(case)}" for case in cases if outcome(case) != "passed"]


def sanitized(preset, cases):
    """`cases`: None when the preset could not be built."""
    if cases is None:
        return [f"Under the preset {preset}: it was not built, no test ran.", ""]
    bad = exceptions(cases, f"under {preset}")
    return [f"Under the preset {preset}: {counts(cases)}", "", *bad, *([""] if bad else [])]


def report(gate, long, commit, host, date, others=()):
    """`gate`, `long`: lists of test cases; `others`: pairs of a preset and its cases."""
    lines = ["# The long tests", "",
             f"Written by `tests/run.sh --long`. Commit {commit}, {date}, {host}.", "",
             f"The gate before them: {counts(gate)}", "", *exceptions(gate, "of the gate")]
    lines += [*([""] if lines[-1] else []), *table(long), ""]
    for preset, cases in others:
        lines += sanitized(preset, cases)
    return "\n".join(lines)


def cases_of(path):
    return list(xml.parse(path).getroot().iter("testcase"))


def preset_of(path):
    path = pathlib.Path(path)
    return path.stem, cases_of(path) if path.exists() else None


def git(*words):
    return subprocess.run(["git", *words], capture_output=True, text=True, timeout=60).stdout.strip()


def this_host():
    """Kind and size of the machine, not its name."""
    info = pathlib.Path("/proc/cpuinfo").read_text()
    model = re.search(r"^model name\s*: (.*)$", info, re.M)
    memory = int(re.search(r"MemTotal:\s*(\d+)", pathlib.Path("/proc/meminfo").read_text())[1]) >> 20
    return f"{len(os.sched_getaffinity(0))} cores ({model[1] if model else os.uname().machine}), {memory} GiB, Linux {os.uname().release}"


def main(gate, long, *others):
    commit = git("rev-parse", "--short", "HEAD") + (" with changes" if git("status", "--porcelain", "--untracked-files=no") else "")
    sys.stdout.write(report(cases_of(gate), cases_of(long), commit, this_host(), datetime.date.today().isoformat(),
                            [preset_of(path) for path in others]))


if __name__ == "__main__":
    main(*sys.argv[1:])
