#!/usr/bin/env python3
"""Writes docs/metrics.md from the declarations in the C++ sources; with --check, only compares.

Usage: make_docs.py [--check], from the root of the repository.
"""
import pathlib
import sys

sys.dont_write_bytecode = True
import catalogue  # noqa: E402

PAGE = pathlib.Path("docs/metrics.md")
ORDER = [catalogue.EVERY, "inference", "router", "trainer", "orchestrator", "env"]
INTRODUCTION = """\
# Metrics

Generated from the declarations in the C++ sources: `python3 deploy/prometheus/make_docs.py`. A test compares.
Every daemon serves them at `http://<metrics>/metrics`, where `<metrics>` is `inference.metrics`, `trainer.metrics`, .. of its
configuration. How they are scraped, and the labels `run`, `role`, `rank` and `node` that scraping adds:
[deploy/prometheus](../deploy/prometheus/README.md).

Units are in the names: seconds, bytes, `_total` for what only grows; everything else is a plain number. Counters whose labels have
known values begin as 0 with their daemon: outcomes, reasons, methods of compaction, calls to peers, tasks of environments, the usual codes
of weights that are not taken over. The calls of a server begin with the first one of their method, together with the codes INTERNAL, UNKNOWN
and DATA_LOSS. What remains (another code, a histogram by label) appears when it is first counted. Gauges by `events` tell of the last step:
a range that no token of it fell into is NaN.
"""


def seconds(bounds):
    return ", ".join(f"{bound:f}".rstrip("0").rstrip(".") for bound in bounds)


def shared_names(families):
    """Names that more than one daemon declares, with who does."""
    roles = {}
    for family in families:
        roles.setdefault(family.name, []).append(family.role)
    return {name: who for name, who in roles.items() if len(who) > 1}


def page(families):
    text = [INTRODUCTION]
    text.append("Several daemons declare these names, each for its own side; select by `role`: "
                + "; ".join(f"`{name}` ({', '.join(roles)})" for name, roles in sorted(shared_names(families).items()))
                + ".\n")
    buckets = sorted({family.buckets for family in families if family.buckets})
    for number, bounds in enumerate(buckets, 1):
        text.append(f"Upper bounds of histograms marked {number}: {seconds(bounds)}.\n")
    roles = {family.role for family in families}
    if roles - set(ORDER):
        raise catalogue.Unreadable(f"no section for {sorted(roles - set(ORDER))}")
    for role in ORDER:
        text.append(f"## {role[0].upper() + role[1:]}\n\n| name | type | labels | what |\n|---|---|---|---|")
        for family in sorted((f for f in families if f.role == role), key=lambda f: f.name):
            kind = f"{family.type} {buckets.index(family.buckets) + 1}" if family.buckets else family.type
            labels = ", ".join(f"`{label}`" for label in family.labels)
            text.append(f"| `{family.name}` | {kind} | {labels} | {family.help} |")
        text.append("")
    return "\n".join(text)


def main(arguments):
    if arguments not in ([], ["--check"]):
        sys.exit(__doc__)
    try:
        made = page(catalogue.read("."))
    except catalogue.Unreadable as error:
        sys.exit(f"make_docs: {error}")
    if not arguments:
        PAGE.write_text(made)
    elif not PAGE.exists() or PAGE.read_text() != made:
        sys.exit(f"make_docs: {PAGE} is not what the sources declare; run deploy/prometheus/make_docs.py")


if __name__ == "__main__":
    main(sys.argv[1:])
