#!/usr/bin/env python3
"""Tables of deploy/compare.sh --study gradients: what of compaction RL needs.

Reads RUNS/<seed>/<way>/report/{report.json,heldout.jsonl}, writes OUT/gradients.md. Standard library only. Exit code 2
when a run is missing, or when the runs of a seed were not measured on the same prompts.
"""
import argparse
import datetime
import pathlib
import sys

import compare_report as paired

LABELS = {
    "full": "the base: full gradients, β, 48 reference tokens, 3x",
    "straight_through": "gradients: straight through",
    "detached": "gradients: detached",
    "no_beta": "β off",
    "none": "no compaction",
    "evict": "evict",
    "random_references": "random reference vectors",
    "references_32": "32 reference tokens",
    "references_96": "96 reference tokens",
    "references_all": "all tokens as references",
    "x2": "2x",
    "x4": "4x",
    "x8": "8x",
    "stack": "stack, 20 -> 2",
    "accumulated": "chosen by accumulated mass",
    "carried_max": "chosen by the carried maximum, quota by covered positions",
    "diverse": "chosen by the carried maximum, diverse keys",
}
BASE = "full"
OWN = {"full": "am", "straight_through": "am", "detached": "am"}  # the policy of a way that has not its name
MOVED = ["full", "none"]  # whose policies were measured under all ways, too


def under(way: str, context: str) -> str:
    """The name of a policy trained in one way and measured under the context of another."""
    return f"{way} under {context}"


def with_moved(table: dict[str, dict[str, paired.Run]]) -> dict[str, dict[str, paired.Run]]:
    """The runs, and as further ways those of MOVED as they were measured under other contexts."""
    wide = {}
    for seed, by_way in table.items():
        wide[seed] = dict(by_way)
        for way in MOVED:
            if way not in by_way:
                continue
            run = by_way[way]
            for when, _ in run.rewards:
                if when.startswith("last."):
                    rewards = {(name, greedy): run.rewards[when if name == "last" else "first", greedy]
                               for name in ("first", "last") for greedy in (False, True)}
                    wide[seed][under(way, when[len("last."):])] = paired.Run(run.report, rewards, run.indices, run.memory)
    return wide


def trained_table(c: paired.Comparison, ways: list[str]) -> str:
    rows = []
    for way in ways:
        row = [LABELS[way]]
        for measure in paired.MEASURES:
            if way == BASE:
                row.append(paired.with_interval(c.mean(way, *measure), *c.mean_interval(way, *measure)))
            else:
                row.append(f"{c.mean(way, *measure):.3f}, "
                           + paired.with_interval(*c.difference(way, BASE, *measure), sign="+"))
        rows.append(row)
    return paired.table_of(["trained and measured so; but for the base: the mean, then minus the base", *paired.MEASURE_NAMES], rows)


def seeds_table(c: paired.Comparison, ways: list[str]) -> str:
    return paired.table_of(["T = 1, before -> after RL", *(f"seed {seed}" for seed in c.seeds)],
                           [[LABELS[way], *(f"{c.mean(way, False, False, 'first', seed):.3f} -> "
                                            f"{c.mean(way, False, False, 'last', seed):.3f}" for seed in c.seeds)]
                            for way in ways])


def moved_table(c: paired.Comparison) -> str:
    """Two policies under contexts that they were not trained under."""
    contexts = [context for context in ("am", *LABELS) if any(under(way, context) in c.ways for way in MOVED)]
    trained = {"full": "am", "none": "none"}
    rows = []
    for context in contexts:
        row = ["the base's" if context == "am" else LABELS[context]]
        for way in MOVED:
            name = way if trained[way] == context else under(way, context)
            there = name in c.ways
            row += [paired.with_interval(c.mean(name, *m), *c.mean_interval(name, *m)) if there else ""
                    for m in ((False, False), (True, True))]
        rows.append(row)
    head = ["measured under", "trained under the base: T = 1", "greedy, needs memory", "never met compaction: T = 1",
            "greedy, needs memory"]
    return paired.table_of(head, rows)


def recall_table(table: dict[str, dict[str, paired.Run]], ways: list[str]) -> str:
    """Of the asked lines the share that is right, greedy, by how many lines ago they were written."""
    def parts_of(run: paired.Run, way: str) -> dict[str, float]:
        return run.report["heldout_by_context"][OWN.get(way, way)]["greedy_parts"]

    ages = sorted({name for by in table.values() for way in ways for name in parts_of(by[way], way)
                   if name.startswith("recall_")}, key=lambda name: int(name.split("_")[1]))
    rows = []
    for way in ways:
        row = [LABELS[way]]
        for age in ages:
            values = [parts_of(by[way], way)[age] for by in table.values() if age in parts_of(by[way], way)]
            row.append(f"{sum(values) / len(values):.3f}" if values else "")
        rows.append(row)
    return paired.table_of(["lines ago", *("{1} to {2}".format(*age.split("_")) for age in ages)], rows)


def cost_table(table: dict[str, dict[str, paired.Run]], ways: list[str]) -> str:
    def mean_of(way: str, name: str) -> float:
        return sum(by[way].report[name] for by in table.values()) / len(table)

    rows = []
    for way in ways:
        budget, total = mean_of(way, "kv_budget"), mean_of(way, "mean_total_tokens")
        rows.append([LABELS[way], f"{total / budget:.2f}" if budget else "1", f"{mean_of(way, 'events_per_rollout'):.1f}",
                     f"{mean_of(way, 'mismatch_kl'):.1e}"])
    return paired.table_of(["", "times less", "events", "mismatch KL"], rows)


def findings(c: paired.Comparison, ways: list[str]) -> str:
    """Each way against the base at T = 1; the same sentences whatever the numbers are."""
    lines = []
    for way in ways:
        if way != BASE:
            difference = c.difference(way, BASE, False, False)
            lines.append(f"- {LABELS[way]}: {paired.with_interval(*difference, sign='+')}: {paired.verdict(*difference[1:])}.\n")
    return "".join(lines)


def page(table: dict[str, dict[str, paired.Run]], ways: list[str], args: argparse.Namespace) -> str:
    c = paired.Comparison(with_moved(table))
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    parts = [
        "# What of compaction RL needs\n",
        f"`{args.command}` at commit {args.commit}, {today}, on {paired.host()}. Settings: `{args.config}`.\n",
        f"Per seed ({', '.join(c.seeds)}) one supervised warm start, then RL from the same weights once per way, with the same prompts "
        f"and seeds. Each way changes one thing of the base. Held-out prompts: {c.prompts(False)} in all, {c.prompts(True)} of them need "
        "memory. In brackets are 95 % intervals by bootstrap over seeds and, within each, over prompts; all ways share a draw, so "
        "differences are paired. Few seeds make them rather too narrow.\n",
        "The warm start lived under the base's compaction, evict and markovian: ways that compact otherwise begin with weights that do not "
        "know them, so they show what a few steps of RL make of that, not what they would reach from a start of their own.\n",
        "## Minus the base, T = 1\n", findings(c, ways),
        "## Reward\n", trained_table(c, ways),
        "## Each seed\n", seeds_table(c, ways)]
    if any(way in ways for way in MOVED):
        parts += ["## Measured under what one was not trained under\n", moved_table(c)]
    parts += ["## Recall by age, greedy\n", recall_table(table, ways),
              "## Events and mismatch\n", cost_table(table, ways)]
    return "\n".join(parts)


def write_report(args: argparse.Namespace) -> None:
    if BASE not in args.ways:
        raise paired.Broken(f"--ways: {BASE} is missing, which the others are held against")
    text = page(paired.read_runs(args.runs, args.seeds, args.ways), args.ways, args)
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "gradients.md").write_text(text)


if __name__ == "__main__":
    sys.exit(paired.command(sys.argv[1:], __doc__, "gradients.md", LABELS, write_report))
