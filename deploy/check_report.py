#!/usr/bin/env python3
"""Holds a run's report.json against what the quickstart promises; prints each number with its bound.

Usage: check_report.py REPORT.json. Exit code 1 when a line fails, 2 when the file is no report.
"""
import json
import math
import operator
import sys

RELATIONS = {"<=": operator.le, ">=": operator.ge}


def promises(report: dict) -> list[tuple[str, float, str, float]]:
    """(what, value, relation, bound) of each promise; a number that is absent is a KeyError."""
    memory = report["heldout_by_context"]["none"]
    markovian = report["heldout_by_context"]["markovian"]["reward_needs_memory"]
    return [
        ("steps", report["steps"], ">=", 20),
        ("policy_versions", report["policy_versions"], ">=", 10),
        ("events_per_rollout", report["events_per_rollout"], ">=", 3),
        ("kv_budget", report["kv_budget"], "<=", report["mean_total_tokens"] / 3),
        ("reward_first (held out, T = 1)", report["reward_first"], "<=", 0.5),
        ("reward_last (the same prompts)", report["reward_last"], ">=", 0.8),
        ("reward_last - reward_first", report["reward_last"] - report["reward_first"], ">=", 0.3),
        ("greedy_last - greedy_first", report["greedy_last"] - report["greedy_first"], ">=", -0.03),
        ("mismatch_kl (per token, k3)", report["mismatch_kl"], "<=", 1e-4),
        ("held-out prompts", report["heldout_n"], ">=", 200),
        ("of them need memory", memory["prompts_needs_memory"], ">=", report["heldout_n"] / 2),
        ("markovian where memory is needed", markovian, "<=", memory["reward_needs_memory"] / 2),
    ]


def main(path: str) -> int:
    try:
        with open(path, encoding="utf-8") as file:
            lines = promises(json.load(file))
    except (OSError, ValueError, KeyError, TypeError) as error:
        print(f"{path}: no report with all numbers: {error!r}", file=sys.stderr)
        return 2
    failed = 0
    for what, value, relation, bound in lines:
        holds = math.isfinite(value) and RELATIONS[relation](value, bound)
        failed += not holds
        print(f"{'ok  ' if holds else 'FAIL'}  {what:<34} {value:>12.6g}  {relation} {bound:.6g}")
    return 1 if failed else 0


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.exit(main(sys.argv[1]))
