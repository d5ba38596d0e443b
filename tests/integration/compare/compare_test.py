#!/usr/bin/env python3
"""The reports of deploy/compare.sh on runs whose numbers are known, and what the script refuses.

Usage: compare_test.py, from the root of the repository. Needs the standard library only.
"""
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree

ROOT = pathlib.Path.cwd()
sys.path.insert(0, str(ROOT / "deploy"))
sys.dont_write_bytecode = True
import compare_report  # noqa: E402
import gradients_report  # noqa: E402

PROMPTS = 40


def needs_memory(index):
    return index % 4 != 0


def write_run(folder, reward, also=(), indices=range(PROMPTS), minutes=3, context="am", recall=0.5):
    """A run whose rewards after RL are reward(index, greedy), and 0.25 before."""
    lines = []
    for when in ["first", "last", *("last." + other for other in also)]:
        for greedy in (False, True):
            for index in indices:
                value = 0.25 if when == "first" else reward(index, greedy) if when == "last" else 0.5
                lines.append({"index": index, "greedy": greedy, "when": when, "reward": value,
                              "needs_memory": needs_memory(index)})
    random.Random(1).shuffle(lines)  # the order is nobody's promise
    report = folder / "report"
    report.mkdir(parents=True)
    (report / "heldout.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    (report / "report.json").write_text(json.dumps(
        {"kv_budget": 56, "mean_total_tokens": 224, "events_per_rollout": 11, "steps": 40, "tokens_per_s": 1234.5,
         "wall_s": 60 * minutes, "mismatch_kl": 2e-13,
         "heldout_by_context": {context: {"greedy_parts": {"answer": 0.5, "recall_5_8": recall, "recall_9_12": 0.125}}}}))


def noisy(seed, index, greedy):
    return random.Random(f"{seed} {index} {greedy}").uniform(0.5, 0.9)


class Report(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.runs = pathlib.Path(folder.name, "runs")
        self.out = pathlib.Path(folder.name, "out")

    def compare(self, seeds, ways):
        return compare_report.Comparison(compare_report.read_runs(self.runs, seeds, ways), resamples=400)

    def report(self, seeds, ways, program="compare_report.py"):
        config = pathlib.Path(self.runs.parent, "a.yaml")
        config.write_text("a: 1\n")
        return subprocess.run(
            [sys.executable, "-B", ROOT / "deploy" / program, "--runs", self.runs, "--seeds", seeds, "--ways", ways,
             "--config", config, "--out", self.out, "--command", "deploy/compare.sh --of-this-test", "--commit", "abc123"],
            capture_output=True, text=True, timeout=100)

    def test_means_are_those_of_the_prompts(self):
        for seed in (1, 2):
            write_run(self.runs / f"{seed}/none", lambda i, greedy, s=seed: noisy(s, i, greedy))
        c = self.compare(["1", "2"], ["none"])
        for greedy in (False, True):
            every = [noisy(s, i, greedy) for s in (1, 2) for i in range(PROMPTS)]
            memory = [noisy(s, i, greedy) for s in (1, 2) for i in range(PROMPTS) if needs_memory(i)]
            self.assertAlmostEqual(c.mean("none", greedy, False), sum(every) / len(every))
            self.assertAlmostEqual(c.mean("none", greedy, True), sum(memory) / len(memory))
            low, high = c.mean_interval("none", greedy, False)
            self.assertLess(low, c.mean("none", greedy, False))
            self.assertGreater(high, c.mean("none", greedy, False))
        self.assertEqual(c.mean("none", False, False, "first"), 0.25)
        self.assertEqual((c.prompts(False), c.prompts(True)), (80, 60))

    def test_a_difference_on_every_prompt_is_certain_however_the_prompts_vary(self):
        write_run(self.runs / "1/none", lambda i, greedy: noisy(1, i, greedy))
        write_run(self.runs / "1/am4", lambda i, greedy: noisy(1, i, greedy) - 0.1)
        write_run(self.runs / "1/evict4", lambda i, greedy: noisy(2, i, greedy) - 0.1)
        c = self.compare(["1"], ["none", "am4", "evict4"])
        for value in c.difference("am4", "none", False, True):
            self.assertAlmostEqual(value, -0.1)
        # Negative control: the same distribution on prompts that have nothing to do with each other.
        _, low, high = c.difference("evict4", "none", False, True)
        self.assertGreater(high - low, 0.02)
        value, low, high = c.ratio("am4", "none", False, False)
        self.assertAlmostEqual(value, c.mean("am4", False, False) / c.mean("none", False, False))
        self.assertTrue(low < value < high)

    def test_seeds_that_differ_widen_the_interval(self):
        for seed, reward in (("1", 0.5), ("2", 0.7), ("3", 0.9)):
            write_run(self.runs / seed / "none", lambda i, greedy, r=reward: r)
        low, high = self.compare(["1", "2", "3"], ["none"]).mean_interval("none", False, False)
        self.assertLess(low, 0.6)
        self.assertGreater(high, 0.8)
        low, high = self.compare(["2"], ["none"]).mean_interval("none", False, False)
        self.assertAlmostEqual(low, 0.7)
        self.assertAlmostEqual(high, 0.7)

    def test_the_interval_of_a_mean_is_as_wide_as_theory_says(self):
        write_run(self.runs / "1/none", lambda i, greedy: float(i % 2), indices=range(400))
        low, high = self.compare(["1"], ["none"]).mean_interval("none", False, False)
        self.assertAlmostEqual((high - low) / 2, 1.96 * 0.5 / 20, delta=0.01)

    def test_page_and_picture_say_what_the_numbers_say(self):
        for seed in "12":
            for way, loss in (("none", 0), ("am4", 0.01), ("evict4", 0.01), ("markovian", 0.45)):
                write_run(self.runs / seed / way, lambda i, greedy, s=seed, d=loss: noisy(s, i, greedy) - d,
                          also=["am4"] if way == "none" else [])
        done = self.report("1,2", "none,am4,evict4,markovian")
        self.assertEqual(done.returncode, 0, done.stderr)
        page = (self.out / "compare.md").read_text()
        for words in ("the aim of 0.95 is met (the whole interval is above it)", "deploy/compare.sh --of-this-test", "abc123",
                      "at most half", "no difference shown", "80 in all, 60 of them need memory", "a: 1", "| 4.00 |"):
            self.assertIn(words, page)
        self.assertRegex(page, r"attention matching, 4x \| -0\.010 \[-0\.010, -0\.010\]")
        self.assertRegex(page, r"\| no compaction \| 0\.500 \|")  # measured under am4
        picture = xml.etree.ElementTree.fromstring((self.out / "compare.svg").read_text())
        words = " ".join(picture.itertext())
        for word in ("markovian", "sampled, T = 1", "greedy", "prompts that need memory"):
            self.assertIn(word, words)
        for rect in picture.iter("{http://www.w3.org/2000/svg}rect"):
            self.assertGreaterEqual(float(rect.get("height")), 0)

    def test_what_falls_short_is_said_in_the_same_place(self):
        for way, loss in (("none", 0), ("am4", 0.2), ("evict4", 0.1), ("markovian", 0.1)):
            write_run(self.runs / "1" / way, lambda i, greedy, d=loss: noisy(1, i, greedy) - d)
        self.assertEqual(self.report("1", "none,am4,evict4,markovian").returncode, 0)
        page = (self.out / "compare.md").read_text()
        for words in ("the aim of 0.95 is missed", "more than half, so these tasks do not ask", "evict, greedy: -0.100"):
            self.assertIn(words, page)
        self.assertRegex(page, r"minus evict, T = 1: .*: worse\.")

    def test_runs_that_cannot_be_paired_are_refused(self):
        write_run(self.runs / "1/none", lambda i, greedy: 1.0)
        write_run(self.runs / "1/am4", lambda i, greedy: 1.0, indices=range(1, PROMPTS + 1))
        for ways, words in (("none,am4", "different prompts"), ("none,evict4", "has no report"), ("none,x", "x is not one")):
            done = self.report("1", ways)
            self.assertEqual(done.returncode, 2, ways)
            self.assertIn(words, done.stderr)
        self.assertFalse((self.out / "compare.md").exists())

    def test_a_run_that_was_cut_short_is_refused(self):
        write_run(self.runs / "1/none", lambda i, greedy: 1.0)
        lines = self.runs / "1/none/report/heldout.jsonl"
        lines.write_text("".join(lines.read_text().splitlines(keepends=True)[:-1]))
        self.assertRegex(self.report("1", "none").stderr, r"has 39 prompts of 40")


    def test_each_way_is_held_against_the_base(self):
        for seed, recall in (("1", 0.5), ("2", 0.75)):
            for way, loss in (("full", 0), ("detached", 0.1), ("x8", 0)):
                write_run(self.runs / seed / way, lambda i, greedy, s=seed, d=loss: noisy(s, i, greedy) - d,
                          also=["none", "x8"] if way == "full" else [], context=gradients_report.OWN.get(way, way), recall=recall)
        done = self.report("1,2", "full,detached,x8", "gradients_report.py")
        self.assertEqual(done.returncode, 0, done.stderr)
        page = (self.out / "gradients.md").read_text()
        self.assertIn("- gradients: detached: -0.100 [-0.100, -0.100]: worse.", page)
        self.assertIn("- 8x: +0.000 [+0.000, +0.000]: no difference shown.", page)
        self.assertIn("| no compaction | 0.500 [0.500, 0.500] | 0.500 [0.500, 0.500] |  |  |", page)  # the base under others
        self.assertIn("| lines ago | 5 to 8 | 9 to 12 |", page)
        self.assertIn("| 8x | 0.625 | 0.125 |", page)

    def test_without_the_base_or_with_ways_of_another_study_there_is_no_page(self):
        write_run(self.runs / "1/x2", lambda i, greedy: 1.0)
        for ways, words in (("x2", "full is missing"), ("full,am4", "am4 is not one")):
            done = self.report("1", ways, "gradients_report.py")
            self.assertEqual(done.returncode, 2, ways)
            self.assertIn(words, done.stderr)
        self.assertFalse((self.out / "gradients.md").exists())


class Script(unittest.TestCase):
    def test_arguments_that_mean_nothing_are_refused_before_anything_is_built(self):
        for arguments, words in ((["--what"], "unknown argument '--what'"), (["--ways", "am5"], "'am5' is not one of"),
                                 (["--study", "../x"], "is not one of compare, gradients"), (["--ways", ""], "--ways is empty"),
                                 (["--study", "gradients", "--ways", "am4"], "'am4' is not one of full,"),
                                 (["--ways"], "needs a value"), (["--seeds", "one"], "no list of numbers"),
                                 (["--seeds", "1,1"], "'1' is there twice"), (["--quick", "more"], "unknown argument 'more'")):
            done = subprocess.run([ROOT / "deploy/compare.sh", *arguments], capture_output=True, text=True, timeout=20)
            self.assertEqual(done.returncode, 2, arguments)
            self.assertIn(words, done.stderr)

    def test_ways_of_a_study_are_those_of_its_report_and_its_configuration(self):
        for study, report in (("compare", compare_report), ("gradients", gradients_report)):
            script = (ROOT / f"deploy/studies/{study}.sh").read_text()
            ways = re.search(r"^all_ways=(\S+)$", script, re.M)[1].split(",")
            self.assertEqual(set(ways), set(report.LABELS))
            config = (ROOT / f"deploy/configs/{study}.yaml").read_text()
            for way in set(ways) - {"none", *gradients_report.OWN}:
                self.assertRegex(config, rf"(?m)^    {way}: {{kind: kv_budget")


if __name__ == "__main__":
    unittest.main()
