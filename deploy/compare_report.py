#!/usr/bin/env python3
"""Table and picture of deploy/compare.sh: what training under each way of compaction costs.

Reads RUNS/<seed>/<way>/report/{report.json,heldout.jsonl}, writes OUT/compare.md and OUT/compare.svg. Standard library
only. Exit code 2 when a run is missing, or when the runs of a seed were not measured on the same prompts.
"""
import argparse
import dataclasses
import datetime
import html
import json
import math
import operator
import os
import pathlib
import platform
import random
import sys

LABELS = {"none": "no compaction", "am4": "attention matching, 4x", "evict4": "evict, 4x", "markovian": "markovian, 4x",
          "am8": "attention matching, 8x", "evict8": "evict, 8x"}
BASE = "none"
RESAMPLES = 2000
AIM = 0.95  # attention matching at 4x, as a share of no compaction
MEASURES = [(False, False), (False, True), (True, False), (True, True)]  # (greedy, only prompts that need memory)


class Broken(Exception):
    """The runs cannot be compared."""


@dataclasses.dataclass
class Run:
    report: dict
    rewards: dict  # (when, greedy) -> rewards, in the order of `indices`
    indices: list[int]
    memory: list[int]  # 1 where the prompt needs memory


def read_run(folder: pathlib.Path) -> Run:
    try:
        report = json.loads((folder / "report/report.json").read_text())
        lines = [json.loads(line) for line in (folder / "report/heldout.jsonl").read_text().splitlines()]
    except (OSError, ValueError) as error:
        raise Broken(f"{folder} has no report: {error}") from error
    series: dict = {}
    memory: dict[int, int] = {}
    for line in lines:
        series.setdefault((line["when"], line["greedy"]), {})[line["index"]] = line["reward"]
        if memory.setdefault(line["index"], int(line["needs_memory"])) != int(line["needs_memory"]):
            raise Broken(f"{folder}: prompt {line['index']} needs memory in one line and none in another")
    indices = sorted(memory)
    for name, by_index in series.items():
        if sorted(by_index) != indices:
            raise Broken(f"{folder}: {name} has {len(by_index)} prompts of {len(indices)}")
    for needed in [("first", False), ("first", True), ("last", False), ("last", True)]:
        if needed not in series:
            raise Broken(f"{folder}: no held-out rewards {needed}")
    return Run(report, {name: [by[i] for i in indices] for name, by in series.items()}, indices,
               [memory[i] for i in indices])


def read_runs(runs: pathlib.Path, seeds: list[str], ways: list[str]) -> dict[str, dict[str, Run]]:
    """[seed][way]; all ways of a seed have the same prompts."""
    table = {seed: {way: read_run(runs / seed / way) for way in ways} for seed in seeds}
    for seed, by_way in table.items():
        first = by_way[ways[0]]
        for way, run in by_way.items():
            if (run.indices, run.memory) != (first.indices, first.memory):
                raise Broken(f"seed {seed}: {way} and {ways[0]} were measured on different prompts")
    return table


def interval(values: list[float]) -> tuple[float, float]:
    """The 2.5 % and 97.5 % quantiles, interpolated."""
    ordered = sorted(values)

    def quantile(share: float) -> float:
        place = share * (len(ordered) - 1)
        low = int(place)
        high = min(low + 1, len(ordered) - 1)
        return ordered[low] + (ordered[high] - ordered[low]) * (place - low)

    return quantile(0.025), quantile(0.975)


def ratio(a: float, b: float) -> float:
    return a / b if b else float("nan")


class Comparison:
    """Means, and their distribution when seeds, and within each drawn seed prompts, are drawn with replacement.

    One draw of prompts serves all ways, so differences and ratios are paired.
    """

    def __init__(self, table: dict[str, dict[str, Run]], resamples: int = RESAMPLES):
        self.table = table
        self.ways = list(next(iter(table.values())))
        self.seeds = list(table)
        self._masks = {}  # (seed, only memory) -> 0 or 1 of each prompt
        self._values = {}  # (seed, way, greedy, only memory) -> masked rewards after RL
        for seed, by_way in table.items():
            for only_memory in (False, True):
                mask = next(iter(by_way.values())).memory if only_memory else [1] * len(self._any(seed).indices)
                self._masks[seed, only_memory] = mask
                for way, run in by_way.items():
                    for greedy in (False, True):
                        rewards = run.rewards["last", greedy]
                        self._values[seed, way, greedy, only_memory] = [r * m for r, m in zip(rewards, mask)]
        self._draws = self._bootstrap(resamples)

    def _any(self, seed: str) -> Run:
        return self.table[seed][self.ways[0]]

    def _bootstrap(self, resamples: int) -> dict:
        stream = random.Random(20260101)
        draws: dict = {(way, *measure): [] for way in self.ways for measure in MEASURES}
        for _ in range(resamples):
            sums = dict.fromkeys(draws, 0.0)
            counts = {False: 0, True: 0}
            for seed in stream.choices(self.seeds, k=len(self.seeds)):
                n = len(self._any(seed).indices)
                # Twice the first one, so that itemgetter gives a tuple of a single prompt too.
                chosen = stream.choices(range(n), k=n)
                pick = operator.itemgetter(chosen[0], *chosen)
                for only_memory in counts:
                    drawn = pick(self._masks[seed, only_memory])
                    counts[only_memory] += sum(drawn) - drawn[0]
                for way, greedy, only_memory in draws:
                    drawn = pick(self._values[seed, way, greedy, only_memory])
                    sums[way, greedy, only_memory] += sum(drawn) - drawn[0]
            for key in draws:
                draws[key].append(ratio(sums[key], counts[key[2]]))
        return draws

    def mean(self, way: str, greedy: bool, only_memory: bool, when: str = "last", seed: str | None = None) -> float:
        total = count = 0.0
        for name in self.seeds if seed is None else [seed]:
            run = self.table[name][way]
            mask = self._masks[name, only_memory]
            total += sum(r * m for r, m in zip(run.rewards[when, greedy], mask))
            count += sum(mask)
        return ratio(total, count)

    def mean_interval(self, way: str, greedy: bool, only_memory: bool) -> tuple[float, float]:
        return interval(self._draws[way, greedy, only_memory])

    def _paired(self, function, way: str, other: str, greedy: bool, only_memory: bool) -> tuple[float, float, float]:
        value = function(self.mean(way, greedy, only_memory), self.mean(other, greedy, only_memory))
        pairs = zip(self._draws[way, greedy, only_memory], self._draws[other, greedy, only_memory])
        return value, *interval([function(a, b) for a, b in pairs])

    def difference(self, way: str, other: str, greedy: bool, only_memory: bool) -> tuple[float, float, float]:
        return self._paired(operator.sub, way, other, greedy, only_memory)

    def ratio(self, way: str, other: str, greedy: bool, only_memory: bool) -> tuple[float, float, float]:
        return self._paired(ratio, way, other, greedy, only_memory)

    def prompts(self, only_memory: bool) -> int:
        return sum(sum(self._masks[seed, only_memory]) for seed in self.seeds)


def table_of(head: list[str], rows: list[list[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 1)]
    return "\n".join(lines + ["| " + " | ".join(row) + " |" for row in rows]) + "\n"


def with_interval(value: float, low: float, high: float, sign: str = "") -> str:
    """A share of a reward of 0, in the data or in a resample, is no number."""
    if math.isnan(value + low + high):
        return "undefined"
    return f"{value:{sign}.3f} [{low:{sign}.3f}, {high:{sign}.3f}]"


MEASURE_NAMES = ["T = 1", "T = 1, needs memory", "greedy", "greedy, needs memory"]


def rewards_table(c: Comparison) -> str:
    return table_of(["trained and measured under", *MEASURE_NAMES],
                    [[LABELS[way], *(with_interval(c.mean(way, *m), *c.mean_interval(way, *m)) for m in MEASURES)]
                     for way in c.ways])


def differences_table(c: Comparison) -> str:
    return table_of(["minus no compaction", *MEASURE_NAMES],
                    [[LABELS[way], *(with_interval(*c.difference(way, BASE, *m), sign="+") for m in MEASURES)]
                     for way in c.ways if way != BASE])


def ratios_table(c: Comparison) -> str:
    return table_of(["as a share of no compaction", *MEASURE_NAMES],
                    [[LABELS[way], *(with_interval(*c.ratio(way, BASE, *m)) for m in MEASURES)]
                     for way in c.ways if way != BASE])


def seeds_table(c: Comparison) -> str:
    return table_of(["T = 1, before -> after RL", *(f"seed {seed}" for seed in c.seeds)],
                    [[LABELS[way], *(f"{c.mean(way, False, False, 'first', seed):.3f} -> "
                                     f"{c.mean(way, False, False, 'last', seed):.3f}" for seed in c.seeds)]
                     for way in c.ways])


def transfer_table(c: Comparison) -> str:
    """What a policy trained under one way earns under another; empty when no run was measured so."""
    measured = [way for way in LABELS
                if any(("last." + way, False) in run.rewards for by in c.table.values() for run in by.values())]
    rows = []
    for way in c.ways:
        row = [LABELS[way]]
        for other in measured:
            when = "last" if other == way else "last." + other
            there = all((when, False) in by[way].rewards for by in c.table.values())
            row.append(f"{c.mean(way, False, False, when):.3f}" if there else "")
        rows.append(row)
    return table_of(["trained under, measured under", *(LABELS[way] for way in measured)], rows) if measured else ""


def cost_table(c: Comparison) -> str:
    def mean_of(way: str, name: str) -> float:
        return sum(by[way].report[name] for by in c.table.values()) / len(c.seeds)

    rows = []
    for way in c.ways:
        budget, total = mean_of(way, "kv_budget"), mean_of(way, "mean_total_tokens")
        rows.append([LABELS[way], f"{budget:.0f}" if budget else "none", f"{total:.0f}",
                     f"{total / budget:.2f}" if budget else "1", f"{mean_of(way, 'events_per_rollout'):.1f}",
                     f"{mean_of(way, 'steps'):.0f}", f"{mean_of(way, 'tokens_per_s'):.0f}",
                     f"{mean_of(way, 'wall_s') / 60:.1f}", f"{mean_of(way, 'mismatch_kl'):.1e}"])
    return table_of(["", "KV budget", "tokens", "times less", "events", "RL steps", "tokens/s", "minutes", "mismatch KL"],
                    rows)


def verdict(low: float, high: float) -> str:
    return "better" if low > 0 else "worse" if high < 0 else "no difference shown"


def findings(c: Comparison) -> str:
    """What the numbers say to the questions that were asked before; the same sentences whatever they are."""
    lines = []
    for way in ("am4", "am8"):
        if BASE in c.ways and way in c.ways:
            share = c.ratio(way, BASE, False, False)
            line = f"{LABELS[way]}: {with_interval(*share)} of the reward of no compaction at T = 1"
            if way == "am4" and not math.isnan(share[0]):
                line += f"; the aim of {AIM} is {'met' if share[0] >= AIM else 'missed'}"
                line += " (the whole interval is above it)" if share[1] >= AIM else ""
            lines.append(line + ".")
    if {"am4", "markovian"} <= set(c.ways):
        lines.append("attention matching minus markovian, both 4x, T = 1: "
                     + with_interval(*c.difference("am4", "markovian", False, False), sign="+") + ".")
    if {BASE, "markovian"} <= set(c.ways):
        share = c.ratio("markovian", BASE, False, True)
        line = f"markovian on the prompts that need memory: {with_interval(*share)} of no compaction at T = 1"
        if not math.isnan(share[0]):
            line += (f"; {'at most' if share[0] <= 0.5 else 'more than'} half, so these tasks "
                     f"{'do' if share[0] <= 0.5 else 'do not'} ask for what was compacted")
        lines.append(line + ".")
    for a, b in (("am4", "evict4"), ("am8", "evict8")):
        if {a, b} <= set(c.ways):
            for greedy in (False, True):
                value = c.difference(a, b, greedy, False)
                lines.append(f"{LABELS[a]} minus evict, {'greedy' if greedy else 'T = 1'}: "
                             f"{with_interval(*value, sign='+')}: {verdict(*value[1:])}.")
    return "".join(f"- {line}\n" for line in lines)


# The picture: two panels, sampled and greedy; per way a bar of all prompts and one of those that need memory.
PANEL_WIDTH, PANEL_HEIGHT, LEFT, TOP, GAP = 560, 300, 60, 80, 70
COLOURS = {False: "#4878a8", True: "#c46a3a"}


def text(x: float, y: float, words: str, anchor: str = "middle", size: int = 12) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" font-size="{size}">{html.escape(words)}</text>\n'


def bar(c: Comparison, way: str, greedy: bool, only_memory: bool, x: float, width: float) -> str:
    def y_of(reward: float) -> float:
        return TOP + PANEL_HEIGHT * (1 - min(max(reward, 0.0), 1.0))

    mean, (low, high) = c.mean(way, greedy, only_memory), c.mean_interval(way, greedy, only_memory)
    middle = x + width / 2
    svg = (f'<rect x="{x:.1f}" y="{y_of(mean):.1f}" width="{width:.1f}" height="{TOP + PANEL_HEIGHT - y_of(mean):.1f}" '
           f'fill="{COLOURS[only_memory]}"/>\n')
    svg += (f'<path d="M{middle:.1f} {y_of(low):.1f}V{y_of(high):.1f}M{middle - 5:.1f} {y_of(low):.1f}h10'
            f'M{middle - 5:.1f} {y_of(high):.1f}h10" stroke="#222" stroke-width="1.5" fill="none"/>\n')
    for seed in c.seeds:
        svg += (f'<circle cx="{middle + width / 4:.1f}" cy="{y_of(c.mean(way, greedy, only_memory, seed=seed)):.1f}" r="2.5" '
                f'fill="white" stroke="#222"/>\n')
    return svg + text(middle, y_of(max(high, mean)) - 6, f"{mean:.2f}")


def panel(c: Comparison, greedy: bool, left: float) -> str:
    svg = text(left, TOP - 22, "greedy" if greedy else "sampled, T = 1", "start", 14)
    for tenth in range(0, 11, 2):
        y = TOP + PANEL_HEIGHT * (1 - tenth / 10)
        svg += f'<line x1="{left}" y1="{y:.1f}" x2="{left + PANEL_WIDTH}" y2="{y:.1f}" stroke="#ddd"/>\n'
        svg += text(left - 8, y + 4, f"{tenth / 10:.1f}", "end")
    slot = PANEL_WIDTH / len(c.ways)
    width = min(slot * 0.4, 44)
    for place, way in enumerate(c.ways):
        middle = left + slot * (place + 0.5)
        svg += bar(c, way, greedy, False, middle - width - 1, width) + bar(c, way, greedy, True, middle + 1, width)
        for row, words in enumerate(LABELS[way].replace("attention matching", "attention|matching").replace(", ", "|")
                                    .replace("no compaction", "no|compaction").split("|")):
            svg += text(middle, TOP + PANEL_HEIGHT + 18 + 15 * row, words)
    return svg


def picture(c: Comparison) -> str:
    width = LEFT + 2 * PANEL_WIDTH + GAP + 20
    height = TOP + PANEL_HEIGHT + 105
    svg = (f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" '
           f'font-family="sans-serif" fill="#222">\n<rect width="{width}" height="{height}" fill="white"/>\n')
    svg += text(LEFT, 30, "Held-out reward after RL, trained and measured under the same policy", "start", 17)
    svg += panel(c, False, LEFT) + panel(c, True, LEFT + PANEL_WIDTH + GAP)
    for only_memory, words, x in ((False, "all prompts", 0), (True, "prompts that need memory", 130)):
        svg += f'<rect x="{LEFT + x}" y="{height - 26}" width="12" height="12" fill="{COLOURS[only_memory]}"/>\n'
        svg += text(LEFT + x + 18, height - 15, words, "start")
    svg += text(LEFT + 350, height - 15, f"bars: mean of {len(c.seeds)} seed(s), {c.prompts(False)} prompts; lines: 95 % "
                "intervals; circles: single seeds", "start")
    return svg + "</svg>\n"


def host() -> str:
    """The machine without its name."""
    processor = platform.machine()
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    try:
        for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                processor = line.split(":", 1)[1].strip()
                break
    except OSError:
        pass
    return f"{os.cpu_count()} cores ({processor}), {memory:.0f} GiB of memory"


def page(c: Comparison, args: argparse.Namespace) -> str:
    today = datetime.datetime.now(datetime.timezone.utc).date().isoformat()
    parts = [
        "# What training under compaction costs\n",
        f"`{args.command}` at commit {args.commit}, {today}, on {host()}. Settings: `{args.config}`, below.\n",
        f"Per seed ({', '.join(c.seeds)}) one supervised warm start under all policies in turn, then RL from the same "
        "weights once per way, with the same prompts and seeds. Every policy is measured after RL under the way it was "
        f"trained with, on the same held-out prompts: {c.prompts(False)} in all, {c.prompts(True)} of them need memory. "
        "Rewards lie in [0, 1]. In brackets are 95 % intervals by bootstrap over seeds and, within each, over prompts; "
        "all ways share a draw, so differences and ratios are paired. Few seeds make them rather too narrow.\n",
        "![rewards](compare.svg)\n"]
    if said := findings(c):
        parts += ["## What it says\n", said]
    parts += ["## Reward\n", rewards_table(c)]
    if BASE in c.ways and len(c.ways) > 1:
        parts += ["## Against no compaction, paired\n", differences_table(c), ratios_table(c)]
    parts += ["## Each seed\n", seeds_table(c)]
    if transfer := transfer_table(c):
        parts += ["## Trained under one way, measured under another (T = 1, all prompts)\n", transfer]
    parts += ["## What each way is and what it takes\n",
              "`times less` is all tokens over the KV budget. The prompt is protected and counts in the budget, so the "
              "response is compacted harder than that. Minutes are of RL with its evaluations, without the warm start.\n",
              cost_table(c),
              "<details><summary>settings</summary>\n\n```yaml\n" + pathlib.Path(args.config).read_text().rstrip()
              + "\n```\n</details>\n"]
    return "\n".join(parts)


def command(argv: list[str], doc: str, page_name: str, labels: dict[str, str], write) -> int:
    """The command of a report: write(args) makes its page in args.out, or raises Broken."""
    program = page_name.removesuffix(".md") + "_report"
    parser = argparse.ArgumentParser(prog=program, description=doc)
    parser.add_argument("--runs", type=pathlib.Path, required=True)
    parser.add_argument("--seeds", type=lambda s: s.split(","), required=True)
    parser.add_argument("--ways", type=lambda s: s.split(","), required=True)
    parser.add_argument("--config", required=True, help="the YAML of the runs")
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--command", required=True, help="that made the runs")
    parser.add_argument("--commit", required=True)
    args = parser.parse_args(argv)
    try:
        unknown = [way for way in args.ways if way not in labels]
        if unknown:
            raise Broken(f"--ways: {', '.join(unknown)} is not one of {', '.join(labels)}")
        write(args)
    except (Broken, OSError) as error:
        print(f"{program}: {error}", file=sys.stderr)
        return 2
    print(f"{args.out}/{page_name}")
    return 0


def write_report(args: argparse.Namespace) -> None:
    comparison = Comparison(read_runs(args.runs, args.seeds, args.ways))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "compare.svg").write_text(picture(comparison))
    (args.out / "compare.md").write_text(page(comparison, args))


if __name__ == "__main__":
    sys.exit(command(sys.argv[1:], __doc__, "compare.md", LABELS, write_report))
