#!/usr/bin/env python3
"""Draws problems of reasoning-gym's countdown and scores answers of many kinds with its own scorer.

Usage: make.py OUT.json   (needs reasoning-gym; the committed countdown.json was made with this script)
Each case: numbers, target, a whole response, and the reward that reasoning_gym's score_answer gives for
what its extract_answer takes out of that response (or for the whole response where it finds no tags).
"""
import importlib.metadata
import json
import random
import sys

from reasoning_gym.games.countdown import CountdownConfig, CountdownDataset
from reasoning_gym.utils import extract_answer

PROBLEMS = 60


def variants(rng, numbers, target, expression):
    """Yields (kind, answer) pairs: right, wrong, malformed."""
    yield "right", expression
    yield "right in brackets", f"(({expression}))"
    yield "right with two signs", f"--({expression})"
    yield "right without blanks", expression.replace(" ", "")
    yield "right with blanks around", f"  {expression}\n"
    yield "line break in brackets", f"(\n{expression}\n)"
    yield "line break outside", f"{expression}\n+0"
    yield "plus a number not given", f"{expression} + 0"
    yield "a number once more", f"{expression} + {numbers[0]} - {numbers[0]}"
    yield "the target itself", str(target)
    yield "sum of all", " + ".join(map(str, numbers))
    yield "product of all", "*".join(map(str, numbers))
    yield "one number missing", " + ".join(map(str, numbers[1:]))
    yield "negated", f"-({expression})"
    yield "with equals", f"{expression} = {target}"
    yield "words", f"the answer is {expression}"
    yield "open bracket", f"({expression}"
    yield "close bracket", f"{expression})"
    yield "operator at the end", f"{expression} +"
    yield "operator at the start", f"* {expression}"
    yield "two numbers in a row", f"{numbers[0]} {numbers[1]}"
    yield "leading zero", f"0{expression.lstrip('(')}" if expression[0] != "-" else "007"
    yield "division by zero", f"{numbers[0]} / ({numbers[1]} - {numbers[1]})"
    yield "wrong operators", "".join(f"{rng.choice('+-*/')}{n}" for n in numbers)[1:]
    yield "foreign sign", f"{numbers[0]} \u00d7 {numbers[1]}"
    yield "huge", "123456789012345678901234567890 * " + str(numbers[0])
    yield "bare brackets", "()"
    yield "empty", ""
    yield "blanks", "   "


def near_misses():
    """Values beside the target, inside and outside of numpy.isclose's tolerance (1e-6 + 1e-5 * target)."""
    for numbers, target, answer in [
        ([100, 4, 1, 50, 60], 400, "100*4 + 1/(50*60)"),
        ([100, 4, 1, 5, 60], 400, "100*4 + 1/(5*60)"),
        ([100, 4, 1, 50, 5], 400, "100*4 + 1/(50*5)"),
        ([100, 4, 1, 10, 20], 400, "100*4 - 1/(10*20)"),
        ([100, 9, 99, 1, 100], 999, "100*9 + 99 + 1/100"),
        ([100, 9, 99, 1, 99], 999, "100*9 + 99 - 1/99"),
        ([3, 8, 8, 3], 24, "8/(3 - 8/3)"),
        ([1, 3, 3, 100], 100, "1/3*3*100"),
    ]:
        yield numbers, target, answer


def responses(rng, kind, answer):
    """The same answer in the frames that a model writes."""
    yield answer
    if kind in ("right", "wrong operators", "words", "empty"):
        yield f"<think>{rng.randint(0, 9)}</think>\n<answer> {answer} </answer>\n"
        yield f"<answer>1</answer> no: <answer>{answer}</answer>"
        yield f"<answer>{answer}</answer> or <answer>1+1</answer>"
        yield f"<answer>{answer}"
        yield f"<answer><answer>{answer}</answer>"


def main(path):
    rng = random.Random(7)
    dataset = CountdownDataset(CountdownConfig(seed=11, size=PROBLEMS))
    cases = []

    def add(kind, numbers, target, response):
        extracted = extract_answer(response)
        answer = response if extracted is None else extracted
        reward = dataset.score_answer(answer, {"metadata": {"numbers": numbers, "target": target}})
        cases.append({"kind": kind, "numbers": numbers, "target": target, "response": response, "reward": reward})

    for i in range(PROBLEMS):
        meta = dataset[i]["metadata"]
        chosen = list(variants(rng, meta["numbers"], meta["target"], meta["expression"]))
        for kind, answer in chosen if i < 12 else rng.sample(chosen, 6):
            for response in responses(rng, kind, answer):
                add(kind, meta["numbers"], meta["target"], response)
    for numbers, target, answer in near_misses():
        add("near", numbers, target, answer)
    out = {"reasoning_gym": importlib.metadata.version("reasoning-gym"), "cases": cases}
    with open(path, "w") as f:
        f.write(json.dumps(out, ensure_ascii=True, separators=(",", ":")).replace('},{"kind"', '},\n{"kind"') + "\n")
    print(len(cases), {r: sum(c["reward"] == r for c in cases) for r in (1.0, 0.05, 0.01)})


if __name__ == "__main__":
    main(sys.argv[1])
