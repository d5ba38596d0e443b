#!/usr/bin/env python3
"""`palimpsest eval` against real daemons: a tiny model and an environment of Python.

Usage: eval_test.py PALIMPSEST PALIMPSEST_ENV PUBLISH_FOLDER, from the root of the repository. Standard library only.
"""
import json
import os
import pathlib
import signal
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

sys.dont_write_bytecode = True
HERE = pathlib.Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent / "http"))
import tiny_model  # noqa: E402

BINARY, ENV, PUBLISH = sys.argv[1:4]
AM = "am:kind=kv_budget,budget=24,window=8,reference_tokens=8"
PROMPT = 12  # tokens of "question 00:"


def eventually(what, seconds=60):
    for _ in range(seconds * 20):
        if found := what():
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} never came true")


class Case(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        cls.mood = cls.folder / "mood"
        tiny_model.write(cls.folder / "model")
        cls.config = cls.folder / "env.yaml"
        cls.config.write_text(
            f"run: {{folder: {cls.folder}/env}}\nenv:\n  workers:\n"
            f"    - {{name: m, module: {HERE}/moody.py, options: {{mood: {cls.mood}}}, python: {sys.executable}, processes: 1}}\n")
        cls.start([BINARY, "serve", "--model", cls.folder / "model", "--folder", cls.folder / "serve",
                   "--set", "inference.threads=1"], "serving")
        cls.start([ENV, "--config", cls.config], "env-out")
        line = eventually(lambda: (cls.folder / "serving").read_text())
        address = cls.folder / "env/addresses/env-0"
        eventually(address.exists)
        cls.places = ["--server", json.loads(line)["server"], "--env", address.read_text().splitlines()[0]]

    @classmethod
    def start(cls, command, name):
        with open(cls.folder / name, "wb") as out, open(cls.folder / f"{name}.err", "wb") as err:
            daemon = subprocess.Popen(command, stdout=out, stderr=err)
        cls.addClassCleanup(daemon.wait)
        cls.addClassCleanup(daemon.terminate)

    def command(self, name, *args, samples=2):
        return [BINARY, "eval", *self.places, "--tasks", "moody", "--samples", str(samples), "--policy", "full", "--policy", AM,
                "--policy", "short:kind=short,budget=20", "--out", self.folder / name, *args]

    def run_eval(self, name, *args, code=0, samples=2):
        done = subprocess.run(self.command(name, *args, samples=samples), capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def run_tasks(self, name, tasks, *args, code=0):
        """An evaluation of other tasks, under policies of its own."""
        done = subprocess.run([BINARY, "eval", *self.places, "--tasks", tasks, "--out", self.folder / name, *args],
                              capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, code, done.stderr)
        return done

    def answers(self, name):
        return [json.loads(line) for line in (self.folder / name / "answers.jsonl").read_text().splitlines()]

    def report(self, name):
        return json.loads((self.folder / name / "eval.json").read_text())

    def test_a_whole_evaluation_and_the_same_again(self):
        told = json.loads(self.run_eval("whole", "--n", "4").stdout)
        self.assertEqual(told, {"report": f"{self.folder}/whole/eval.md", "answers": 24, "missing": 0})
        full, am, short = self.report("whole")["policies"]
        for policy in (full, am, short):
            mine = [a for a in self.answers("whole") if a["policy"] == policy["name"]]
            self.assertEqual((policy["all"]["prompts"], policy["all"]["answers"], policy["missing"]), (4, 8, 0))
            self.assertAlmostEqual(policy["all"]["reward"]["value"], sum(a["reward"] for a in mine) / 8)
            self.assertAlmostEqual(policy["all"]["pass@1"]["value"], sum(a["reward"] == 1 for a in mine) / 8)
            self.assertAlmostEqual(policy["tags"]["even"]["reward"]["value"],
                                   sum(a["reward"] for a in mine if a["index"] % 2 == 0) / 4)
            self.assertEqual(len({(a["index"], a["sample"]) for a in mine}), 8)
        for a in self.answers("whole"):
            self.assertEqual((a["reward"], a["prompt_tokens"]), (1.0 if len(a["text"]) % 2 else 0.5, PROMPT))
            if a["policy"] == "full":
                self.assertEqual((a["events"], a["peak_slots"]), (0, PROMPT + a["tokens"] - 1))
                self.assertAlmostEqual(a["mean_slots"], PROMPT + (a["tokens"] - 1) / 2)
            if a["policy"] == "am":
                self.assertEqual(a["events"] > 0, PROMPT + a["tokens"] > 25)
                self.assertLessEqual(a["peak_slots"], 24)
            if a["policy"] == "short":
                self.assertLessEqual(a["prompt_tokens"] + a["tokens"], 20)
        self.assertGreater(am["cost"]["events"], 0)
        self.assertLess(am["cost"]["mean_kv_bytes"], full["cost"]["mean_kv_bytes"])
        xml.etree.ElementTree.parse(self.folder / "whole/eval.svg")
        page = (self.folder / "whole/eval.md").read_text()
        self.assertIn("| am | 8 | 0 |", page)

        before = (self.folder / "whole/answers.jsonl").read_bytes()
        self.assertEqual(json.loads(self.run_eval("whole", "--n", "4").stdout), told)
        self.assertEqual((self.folder / "whole/answers.jsonl").read_bytes(), before)
        self.assertEqual((self.folder / "whole/eval.md").read_text(), page)
        refused = self.run_eval("whole", "--n", "4", "--temperature", "0.5", code=1)
        self.assertIn('temperature was "1" and is "0.5"', refused.stderr)
        self.assertEqual(refused.stdout, "")

        # The same draws in any order, until the first event under every policy; others with another seed.
        self.run_eval("again", "--n", "4", "--concurrency", "1")
        texts = {(a["policy"], a["index"], a["sample"]): a["text"] for a in self.answers("again")}
        self.assertEqual(texts, {(a["policy"], a["index"], a["sample"]): a["text"] for a in self.answers("whole")})
        for (policy, index, sample), text in texts.items():
            if policy == "short":
                self.assertTrue(texts["full", index, sample].startswith(text))
        self.run_eval("other", "--n", "4", "--seed", "1")
        self.assertNotEqual(texts, {(a["policy"], a["index"], a["sample"]): a["text"] for a in self.answers("other")})

    def test_what_the_environment_cannot_judge_is_missing_and_asked_for_again(self):
        for mood, why, samples in (("raise", "not today", 2), ("die", "INFRA_FAILED", 1)):
            self.mood.write_text(mood)
            try:
                done = self.run_eval(mood, "--n", "4", "--tries", str(samples), code=1, samples=samples)
            finally:
                self.mood.unlink()
            self.assertEqual(json.loads(done.stdout)["missing"], 3 * samples)
            self.assertIn(f"{3 * samples} of {12 * samples} answers are missing", done.stderr)
            report = self.report(mood)
            self.assertEqual({why in one["why"] for one in report["missing"]}, {True}, report["missing"])
            for policy in report["policies"]:
                self.assertEqual((policy["missing"], policy["all"]["prompts"]), (samples, 3))
                self.assertGreaterEqual(policy["all"]["reward"]["interval"][0], 0.5)  # a failure scored 0 would be below
            self.assertIn("## Missing", (self.folder / mood / "eval.md").read_text())
        self.run_eval("raise", "--n", "4")
        self.assertEqual((len(self.answers("raise")), self.report("raise")["missing"]), (24, []))

    def test_a_killed_evaluation_goes_on(self):
        book = self.folder / "killed/answers.jsonl"
        many = ("--n", "40", "--concurrency", "2")
        first = subprocess.Popen(self.command("killed", *many), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        eventually(lambda: book.exists() and book.read_bytes().count(b"\n") >= 5)
        first.send_signal(signal.SIGKILL)
        first.wait()
        had = book.read_bytes().count(b"\n")
        self.assertLess(had, 240)
        self.run_eval("killed", *many)
        keys = [(a["policy"], a["index"], a["sample"]) for a in self.answers("killed")]
        self.assertEqual((len(keys), len(set(keys))), (240, 240))

    def test_own_daemons_a_mix_of_tasks_and_the_baselines(self):
        own = ["--model", self.folder / "model", "--config", self.config]
        args = [BINARY, "eval", *own, "--set", "inference.threads=1", "--tasks", "moody,plain=2,dialogue", "--n", "4", "--temperature",
                "0",
                "--baselines", "budget=24,window=8,reference_tokens=8", "--right", "0.5", "--out", self.folder / "own"]
        done = subprocess.run(args, capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        report = self.report("own")
        self.assertEqual([p["name"] for p in report["policies"]],
                         ["full", "short", "recent", "attention", "markovian", "attention_matching"])
        self.assertEqual(report["plan"]["tasks"], {"moody": 1, "plain": 2, "dialogue": 1})
        for policy in report["policies"]:
            self.assertEqual(policy["tasks"]["plain"]["reward"]["value"], 0.25)
            self.assertEqual(policy["tasks"]["plain"]["pass@1"]["value"], 0)
            self.assertEqual(policy["tasks"]["moody"]["pass@1"]["value"], 1)
            turns = policy["tasks"]["dialogue"]["reward"]["value"] * 4
            self.assertEqual(turns == 3, policy["name"] != "short", policy)
            if policy["name"] != "full":
                self.assertLessEqual(policy["cost"]["peak_slots"], 24)

    def test_episodes_of_several_turns_are_played_in_sessions_and_their_turns_compacted(self):
        policies = ("--policy", "full", "--policy", "t:kind=turns,n_protect_turns=1,keep_ratio=0.25,reference_tokens=8",
                    "--policy", "clock:inject=!,inject_every=2")
        self.run_tasks("talk", "dialogue", "--n", "4", "--samples", "2", *policies)
        answers = self.answers("talk")
        self.assertEqual(len(answers), 24)
        for a in answers:
            turns = 3 + a["index"] % 2
            self.assertEqual((a["responses"], a["reward"], a["finish"]), (turns, turns / 4, "stop"))
            for n in range(1, turns):
                self.assertIn(f"<{n}>", a["text"])
            # A turn is compacted when two stand whole and the next begins: once in three turns, twice in four.
            self.assertEqual(a["events"], turns - 2 if a["policy"] == "t" else 0)
            most = len(f"talk {a['index']:02}:") + a["tokens"] - 1
            self.assertEqual(a["peak_slots"] < most, a["policy"] == "t", a)
        full, turns, clock = self.report("talk")["policies"]
        self.assertEqual((full["cost"]["responses"], full["all"]["pass@1"]["value"]), (3.5, 0.5))
        self.assertLess(turns["cost"]["mean_slots"], full["cost"]["mean_slots"])
        self.assertGreater(clock["cost"]["tokens"], full["cost"]["tokens"])
        # The same draws in any order; until the first event the same under every policy.
        self.run_tasks("talk2", "dialogue", "--n", "4", "--samples", "2", "--concurrency", "1", *policies)
        texts = {(a["policy"], a["index"], a["sample"]): a["text"] for a in answers}
        self.assertEqual(texts, {(a["policy"], a["index"], a["sample"]): a["text"] for a in self.answers("talk2")})
        for index in range(4):
            before = texts["full", index, 0].split("<2>")[0]
            self.assertEqual(texts["t", index, 0].split("<2>")[0], before)
            self.assertNotEqual(texts["full", index, 1].split("<2>")[0], before)

    def test_an_episode_whose_turn_the_environment_cannot_take_is_missing_and_no_zero(self):
        self.mood.write_text("raise")
        try:
            done = self.run_tasks("stuck", "dialogue", "--n", "3", "--policy", "full", "--tries", "2", code=1)
        finally:
            self.mood.unlink()
        self.assertEqual(json.loads(done.stdout)["missing"], 1)
        self.assertIn("the environment failed in Step", done.stderr)
        self.assertEqual([p["all"]["reward"]["value"] for p in self.report("stuck")["policies"]], [0.75])
        self.run_tasks("stuck", "dialogue", "--n", "3", "--policy", "full")
        self.assertEqual(self.report("stuck")["missing"], [])

    def test_attempts_are_aggregated_with_and_without_compaction_of_what_is_read(self):
        shape = "population=3,aggregate=2,rounds=2"
        args = ("--n", "3", "--policy", "full", "--policy", f"rsa:{shape}", "--policy",
                f"rsa-am:kind=kv_budget,budget=64,window=16,reference_tokens=8,{shape}")
        self.run_tasks("rsa", "plain", *args)
        book = (self.folder / "rsa/answers.jsonl").read_bytes()
        by = {(a["policy"], a["index"]): a for a in self.answers("rsa")}
        for index in range(3):
            full, rsa, am = (by[policy, index] for policy in ("full", "rsa", "rsa-am"))
            self.assertEqual([a["responses"] for a in (full, rsa, am)], [1, 3, 3])
            # Two bare questions, and one with both attempts behind it.
            self.assertGreater(rsa["prompt_tokens"], 3 * PROMPT + 40)
            self.assertEqual(am["prompt_tokens"], rsa["prompt_tokens"])  # first attempts fit: they are the same
            self.assertGreater(rsa["peak_slots"], 64)
            self.assertEqual((full["events"], rsa["events"]), (0, 0))
            self.assertGreater(am["events"], 0)
            self.assertLessEqual(am["peak_slots"], 64)
            self.assertAlmostEqual(rsa["reward"], 0.25)
        self.run_tasks("rsa", "plain", *args)
        self.assertEqual((self.folder / "rsa/answers.jsonl").read_bytes(), book)

    def interrupted(self, name, n, places, interrupt):
        """Exit code and output of an evaluation of 4 n answers that `interrupt` comes into."""
        out = self.folder / name
        args = [BINARY, "eval", *places, "--tasks", "moody", "--n", str(n), "--samples", "2", "--policy", "full",
                "--policy", AM, "--concurrency", "2", "--out", out]
        running = subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        self.addCleanup(running.wait)
        self.addCleanup(running.kill)
        book = out / "answers.jsonl"
        eventually(lambda: book.exists() and book.read_bytes().count(b"\n") >= 5)
        interrupt()
        self.assertLess(book.read_bytes().count(b"\n"), 4 * n)
        told, said = running.communicate(timeout=100)
        return running.returncode, told, said

    def test_an_own_daemon_that_is_killed_costs_no_answer(self):
        def kill():
            address = (self.folder / "shot/daemons/addresses/inference-0").read_text()
            os.kill(int(address.split("pid ")[1]), signal.SIGKILL)
        own = ["--model", self.folder / "model", "--config", self.config, "--set", "inference.threads=1"]
        code, told, said = self.interrupted("shot", 80, own, kill)
        self.assertEqual(code, 0, said)
        self.assertEqual((json.loads(told)["answers"], json.loads(told)["missing"]), (320, 0))
        self.assertIn("inference-0", said)  # that it was started again

    def test_an_evaluation_is_of_one_version_of_the_weights(self):
        run = self.folder / "moves"
        config = self.folder / "moves.yaml"
        config.write_text(f"run: {{name: test, folder: {run}}}\ninference: {{store_poll: 50ms, threads: 1}}\n")
        tiny_model.write(self.folder / "newer")
        (self.folder / "newer/generation_config.json").write_text('{"eos_token_id": 129}')
        run.mkdir()
        publish = lambda model: subprocess.run([PUBLISH, run / "store", self.folder / model], check=True, timeout=30)  # noqa: E731
        publish("model")
        self.start([pathlib.Path(BINARY).with_name("palimpsest-inference"), "--config", config], "moves-out")
        address = run / "addresses/inference-0"
        eventually(address.exists)
        places = ["--server", address.read_text().splitlines()[0], *self.places[2:]]
        code, told, said = self.interrupted("moving", 500, places, lambda: publish("newer"))
        self.assertEqual((code, told), (1, ""), said)
        self.assertIn("were of version 1 and are of 2 now", said)

    def test_a_conversation_is_a_prompt_too(self):
        done = subprocess.run([BINARY, "eval", *self.places, "--tasks", "chatty", "--n", "2", "--max-tokens", "9", "--policy",
                               "full", "--policy", "short:kind=short,budget=26", "--policy", "clock:inject=!,inject_every=4", "--out",
                               self.folder / "chat"],
                              capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)
        for a in self.answers("chat"):
            self.assertGreater(a["prompt_tokens"], 10)
            most = {"full": 9, "short": 26 - a["prompt_tokens"], "clock": 11}  # injected after 4 and 8 sampled ones
            self.assertEqual(a["tokens"] == most[a["policy"]], a["finish"] == "length", a)
        self.assertEqual({a["policy"] for a in self.answers("chat") if a["finish"] == "length"}, {"full", "short", "clock"})

    def test_what_cannot_be_asked_is_refused_before_anything_is_written(self):
        unknown = subprocess.run([BINARY, "eval", *self.places, "--tasks", "chess", "--policy", "full", "--out",
                                  self.folder / "no"], capture_output=True, text=True, timeout=60)
        self.assertEqual(unknown.returncode, 1)
        self.assertIn('there is no "chess"; there are: countdown, registers, tally, chatty, dialogue, moody, plain', unknown.stderr)
        self.assertFalse(os.path.exists(self.folder / "no"))
        self.run_eval("no", "--split", "test", code=2)
        self.run_eval("no", "--policy", "t:kind=turns", code=2)
        turns = self.run_eval("no", "--policy", "t:kind=turns,n_protect_turns=1", code=1)
        self.assertIn('it compacts turns, but "moody" has one', turns.stderr)
        self.assertIn('it aggregates attempts, but "dialogue"', self.run_tasks(
            "no", "dialogue", "--policy", "r:population=2,aggregate=1,rounds=2", code=1).stderr)
        absent = self.run_eval("no", "--policy", "tight:kind=kv_budget,budget=14,window=8", code=1)
        self.assertIn("tight", absent.stderr)


if __name__ == "__main__":
    unittest.main(argv=[sys.argv[0], *sys.argv[4:]], verbosity=2)
