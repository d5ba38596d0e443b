#!/usr/bin/env python3
"""Compares the built `palimpsest generate` and `score` with cases.json, which simulator.py made from the design.

Usage: generate_test.py PATH_OF_PALIMPSEST, from the root of the repository. Needs the standard library only.
"""
import concurrent.futures
import copy
import json
import pathlib
import subprocess
import sys
import tempfile
import unittest

BINARY = ""
HERE = pathlib.Path("tests/golden/generate")
MODELS = pathlib.Path("tests/golden/model")
CASES = json.loads((HERE / "cases.json").read_text())
EXACT = ("at", "window", "method", "reference", "kept", "parameters", "digest")
FAR = 5e-5          # nats from the fp64 values; fp32 is measured at about 1e-6
QUALITY_FAR = 1e-4  # absolute, of relative errors
CONTROL = 1e-3      # what a wrong log must change in some case
CONTROLS = ("attention_matching with its defaults", "evict by attention", "segments keep one slot")


def spelled(value):
    return str(value).lower() if isinstance(value, bool) else str(value)


def far(expected, actual):
    return max((abs(a - b) for a, b in zip(expected, actual, strict=True)), default=0.0)


def run(*args):
    return subprocess.run([BINARY, *map(str, args)], capture_output=True, timeout=120, text=True)


def generate(case, folder):
    prompt = folder / "prompt.json"
    prompt.write_text(json.dumps({"ids": case["prompt"]}))
    sets = [f"--set=context.{key}={spelled(value)}" for key, value in case["set"].items()]
    return run("generate", "--model", MODELS / case["model"], "--ids-file", prompt, "--max-tokens", case["tokens"],
               "--temperature", case["temperature"], "--seed", case["seed"], "--ignore-eos",
               "--context", case["context"], *sets)


def score(case, events, folder):
    """Of the golden's tokens under `events`."""
    ids, log = folder / "ids.json", folder / "events.json"
    ids.write_text(json.dumps({"ids": case["prompt"] + case["ids"]}))
    log.write_text(json.dumps({"events": events}))
    return run("score", "--model", MODELS / case["model"], "--ids-file", ids, "--events-file", log,
               "--temperature", case["temperature"] or 1)


def another_position(case):
    """The log with one kept position of the last event's first head replaced by the latest one that was dropped."""
    events = copy.deepcopy(case["events"])
    (begin, end), kept = events[-1]["window"], events[-1]["kept"][0][0]
    kept[:] = sorted(kept[1:] + [max(set(range(begin, end)) - set(kept))])
    return events


class Generate(unittest.TestCase):
    def each(self, call, cases):
        """(case, what `call` made of it), two at a time: most of a call is the start of the process."""
        def one(case):
            with tempfile.TemporaryDirectory() as folder:
                return call(case, pathlib.Path(folder))

        with concurrent.futures.ThreadPoolExecutor(2) as pool:
            return list(zip(cases, pool.map(one, cases)))

    def answer(self, done):
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def compare(self, out, case):
        self.assertEqual(out["ids"], case["ids"])
        self.assertEqual(out["finish_reason"], case["finish_reason"])
        self.assertEqual(len(out["events"]), len(case["events"]))
        for event, expected in zip(out["events"], case["events"]):
            for name in EXACT:
                self.assertEqual(event[name], expected[name], name)
            self.compare_quality(event["quality"], expected["quality"])
        self.assertLessEqual(far(case["logprobs"], out["logprobs"]), FAR)

    def compare_quality(self, quality, expected):
        if not expected:  # nothing was listened to
            return self.assertIsNone(quality)
        quality = dict(quality)
        self.assertLessEqual(quality.pop("kkt_residual"), 1e-8)
        self.assertEqual(set(quality), set(expected))
        for name, value in expected.items():
            self.assertAlmostEqual(quality[name], value, delta=QUALITY_FAR, msg=name)

    def test_generate_says_what_the_simulator_says(self):
        for case, done in self.each(generate, CASES):
            with self.subTest(case["name"]):
                self.compare(self.answer(done), case)

    def test_score_of_the_simulated_log_says_so_too(self):
        for case, done in self.each(lambda c, folder: score(c, c["events"], folder), CASES):
            with self.subTest(case["name"]):
                scored = self.answer(done)["logprobs"][len(case["prompt"]) - 1:]
                self.assertLessEqual(far(case["logprobs"], scored), FAR)

    def test_a_moved_position_is_found_by_the_digest_and_without_it_by_the_numbers(self):
        def with_and_without_digest(case, folder):
            events = another_position(case)
            refused = score(case, events, folder)
            for event in events:
                del event["digest"]
            return refused, score(case, events, folder)

        changes = []
        for case, (refused, wrong) in self.each(with_and_without_digest, [c for c in CASES if c["name"] in CONTROLS]):
            with self.subTest(case["name"]):
                self.assertEqual(refused.returncode, 1, refused.stdout)
                self.assertIn(f"events[{len(case['events']) - 1}].digest", refused.stderr)
                scored = self.answer(wrong)["logprobs"][len(case["prompt"]) - 1:]
                changes.append(far(case["logprobs"], scored))
        self.assertEqual(len(changes), len(CONTROLS))
        self.assertGreater(max(changes), CONTROL)


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    unittest.main()
