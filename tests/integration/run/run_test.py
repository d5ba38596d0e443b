#!/usr/bin/env python3
"""Whole runs by `palimpsest launch`, with real daemons: undisturbed, with kill -9 of each of them, over turns.

Usage: run_test.py PATH_OF_PALIMPSEST, from the root of the repository. Needs the standard library only.
"""
import contextlib
import json
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

BINARY = ""
HERE = pathlib.Path("tests/integration/run")
NUMBERS = {"reward_first", "reward_last", "greedy_first", "greedy_last", "heldout_reward", "steps", "wall_s",
           "tokens_per_s", "turns_per_rollout", "events_per_rollout", "kv_budget", "mean_total_tokens", "mismatch_kl", "mismatch_max_abs",
           "staleness_max", "policy_versions"}
ROLES = ("trainer", "inference", "env", "orchestrator")


class Launched(unittest.TestCase):
    config, steps, sets = None, 0, ()

    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder = pathlib.Path(folder.name, "run")
        self.messages = pathlib.Path(folder.name, "stderr.txt")
        self.start()

    def start(self, *sets):
        sets = (*(word for setting in self.sets for word in ("--set", setting)), *sets)
        self.command = [BINARY, "launch", "--config", str(HERE / self.config), "--set", f"run.folder={self.run_folder}", *sets]
        with open(self.messages, "wb") as stderr:
            self.launch = subprocess.Popen(self.command, stdout=subprocess.PIPE, stderr=stderr)
        self.addCleanup(self.stop, self.launch)

    def stop(self, launch):
        if launch.poll() is None:
            launch.kill()
        launch.stdout.close()

    def restart_with(self, *sets):
        """What setUp started, again from nothing and with other settings."""
        self.launch.kill()
        self.launch.wait()
        self.run_folder = self.run_folder.with_name("other")
        self.start(*(word for setting in sets for word in ("--set", setting)))

    def await_message(self, pattern, seconds=180):
        """The last match of `pattern` in what launch said, once there is one."""
        for _ in range(seconds * 20):
            found = re.findall(pattern, self.messages.read_text())
            if found:
                return found[-1]
            self.assertIsNone(self.launch.poll(), self.messages.read_text())
            time.sleep(0.05)
        self.fail(f"no {pattern!r} in {self.messages.read_text()}")

    def await_step(self, step):
        """Messages come once a second at most: not every step is seen."""
        for _ in range(3600):
            if int(self.await_message(rf"rl (\d+)/{self.steps} ")) >= step:
                return
            time.sleep(0.05)
        self.fail(f"step {step} never came: {self.messages.read_text()}")

    def finish(self):
        out, _ = self.launch.communicate(timeout=400)
        self.assertEqual(self.launch.returncode, 0, self.messages.read_text())
        outcome = json.loads(out)
        report = json.loads(pathlib.Path(outcome["report"]).read_text())
        self.assertLessEqual(NUMBERS, set(report))
        for name in NUMBERS:
            self.assertIsInstance(report[name], (int, float), name)
        self.assertEqual(report["steps"], self.steps)
        self.assertEqual(report["heldout_reward"], report["reward_last"])
        self.assertGreaterEqual(report["policy_versions"], min(self.steps, 10))
        self.assertLessEqual(report["mismatch_kl"], 1e-4)
        self.assertLessEqual(report["mismatch_max_abs"], 2e-4)
        self.assertEqual(report["staleness_max"], 0)
        return outcome

    def assert_sound(self):
        """At any moment, also while its daemons are at work. What was looked at, by check."""
        fsck = subprocess.run([BINARY, "fsck", str(self.run_folder), "--max-staleness", "0"], capture_output=True,
                              text=True, timeout=60)
        self.assertEqual(fsck.returncode, 0, fsck.stderr)
        return {check["name"]: check["looked_at"] for check in json.loads(fsck.stdout)["checks"]}

    def assert_page_of_a_live_run(self):
        address = (self.run_folder / "addresses/page-0").read_text().split()[0]
        answers = {}
        for what in ("progress", "fleet"):
            with urllib.request.urlopen(f"http://{address}/api/{what}", timeout=60) as answer:
                answers[what] = json.load(answer)
        self.assertTrue(answers["progress"]["live"])
        self.assertEqual(answers["progress"]["total_steps"], self.steps)
        self.assertEqual({peer["role"] for peer in answers["fleet"]["peers"]}, set(ROLES) - {"orchestrator"})

    def assert_replays(self, step):
        """Of each rollout of a trained step the page has what the trainer replayed, token by token; the worst of them is the
        batch's mismatch."""
        address = (self.run_folder / "addresses/page-0").read_text().split()[0]

        def ask(path):
            with urllib.request.urlopen(f"http://{address}/api/{path}", timeout=60) as answer:
                return json.load(answer)
        rollouts = [ask(f"rollouts/{row['id']}") for row in ask(f"rollouts?step={step}")["rows"]]
        self.assertEqual(len(rollouts), 16)
        worst = 0
        for rollout in rollouts:
            self.assertEqual([x is None for x in rollout["replayed"]], [letter != "s" for letter in rollout["origins"]])
            pairs = zip(rollout["replayed"], rollout["logprobs"])
            worst = max(worst, *(abs(replayed - sampled) for replayed, sampled in pairs if replayed is not None))
        self.assertAlmostEqual(worst, rollouts[0]["batch_mismatch"]["max_abs"], delta=1e-9)

    def assert_records(self):
        """What is written beside the ledger: curves, and a trace whose ids stand in the peers' logs, too."""
        for line in ("train", "heldout"):
            self.assertEqual(len(list((self.run_folder / "tensorboard" / line).glob("*tfevents*"))), 1)
        events = json.loads((self.run_folder / "trace/step_16.json").read_text())["traceEvents"]
        calls = [event for event in events if event["ph"] == "X"]
        self.assertLessEqual({"Environment.Reset", "Reset", "Inference.Generate", "Generate", "Environment.Score", "Score",
                              "Trainer.TrainBatch", "TrainBatch", "Trainer.Publish", "Publish", "Inference.UpdateWeights",
                              "UpdateWeights"}, {call["name"] for call in calls})
        [trace] = {call["args"]["trace"] for call in calls}  # one, through all of them
        for role, name in (("env", "Reset"), ("inference", "Generate"), ("trainer", "TrainBatch")):
            log = (self.run_folder / f"logs/latest/{role}-0.log").read_text()
            self.assertRegex(log, f'"trace":"{trace}","method":"[^"]*/{name}"')

    def kill(self, role):
        pid = int(self.await_message(rf"{role}-0 started, pid (\d+)"))
        os.kill(pid, signal.SIGKILL)
        self.await_message(rf"{role}-0 ended: killed by signal 9")
        self.assert_sound()


class Run(Launched):
    config, steps = "run.yaml", 48  # seconds of it even on a fast machine: tests look at it and kill while it goes on

    def test_a_run_goes_from_nothing_to_its_report(self):
        self.await_step(1)
        self.assert_page_of_a_live_run()
        self.assert_replays(5)  # the first of RL
        self.assertEqual(self.finish()["restarts"], 0)
        self.assert_records()
        self.assertRegex(self.messages.read_text(), r"rl \d+/48 ")  # one line a second: shorter stages may pass between two
        page = (self.run_folder / "report/report.md").read_text()
        self.assertIn(" ".join(self.command), page)
        self.assertEqual([c for c in page if ord(c) < 32 and c not in "\n\t"], [])
        # What is finished has nothing to do, and says so with its numbers.
        self.start()
        self.finish()
        self.assertIn(f"done {self.steps}/{self.steps} ", self.messages.read_text())
        # Its ledger is of seed 1: trying again would not help.
        self.start("--set", "run.seed=2")
        out, _ = self.launch.communicate(timeout=120)
        self.assertEqual(self.launch.returncode, 3, self.messages.read_text())
        outcome = json.loads(out)
        self.assertEqual(outcome["restarts"], 0)
        self.assertEqual(outcome["cause"], "FAILED_PRECONDITION: ledger.seed=1, but the config says 2")

    def test_kill_9_of_each_daemon_costs_time_and_nothing_else(self):
        for number, role in enumerate(ROLES):
            self.await_step(3 * number + 2)
            self.kill(role)
        outcome = self.finish()
        self.assertEqual(outcome["restarts"], len(ROLES))
        looked_at = self.assert_sound()
        self.assertEqual(looked_at["batches_are_in_order"], 4 + self.steps)
        self.assertEqual(looked_at["staleness_is_bounded"], self.steps * 4 * 4)
        self.assertGreaterEqual(looked_at["weights_contain_each_batch_once"], 1)

    def await_joined(self, lives):
        """So many times the ranks have come together."""
        log = self.run_folder / "logs/latest/trainer-1.log"
        for _ in range(3600):
            if log.exists() and log.read_text().count('"msg":"joined"') >= lives:
                return
            time.sleep(0.05)
        self.fail(f"the ranks have not joined {lives} times: {self.messages.read_text()}")

    def test_a_trainer_of_two_ranks_survives_the_loss_of_each(self):
        self.steps = 96
        self.restart_with("placement.trainer.ranks=2", "trainer.collective_timeout=5s", f"orchestrator.rl.steps={self.steps}")
        for restart, (rank, how) in enumerate([(1, signal.SIGKILL), (0, signal.SIGKILL), (1, signal.SIGSTOP)], 1):
            self.await_step(4 * restart)
            self.await_joined(restart)
            os.kill(int(self.await_message(rf"trainer-{rank} started, pid (\d+)")), how)
            self.await_message(rf"restart {restart} of 3 of all its ranks")
            self.assert_sound()
        outcome = self.finish()
        self.assertEqual(outcome["restarts"], 3)
        self.assertEqual(self.assert_sound()["batches_are_in_order"], 4 + self.steps)
        said = (self.run_folder / "logs/latest/trainer-0.log").read_text()
        self.assertIn("rank 1 of 2 does not answer", said)
        self.assertIn("rank 0 of 2 does not answer", (self.run_folder / "logs/latest/trainer-1.log").read_text())


class Turns(Launched):
    """Episodes of six turns over sessions, whose turns are compacted as they go on."""
    config, steps = "turns.yaml", 12

    def test_episodes_are_trained_and_a_killed_daemon_costs_no_turn(self):
        for step, role in ((2, "inference"), (5, "env")):
            self.await_step(step)
            self.kill(role)
        outcome = self.finish()
        self.assertEqual(outcome["restarts"], 2)
        report = json.loads(pathlib.Path(outcome["report"]).read_text())
        self.assertEqual(report["turns_per_rollout"], 6)
        # One before each turn from the third on, but for windows of which every head would keep all.
        self.assertGreater(report["events_per_rollout"], 3.5)
        self.assertLessEqual(report["events_per_rollout"], 4)
        looked_at = self.assert_sound()
        self.assertEqual(looked_at["no_failure_became_a_reward"], self.steps * 2 * 4)
        page = (self.run_folder / "report/report.md").read_text()
        self.assertRegex(page, r"\?[a-c]{3};")


SMALL = ("orchestrator.rl.steps=2", "orchestrator.rl.prompts_per_batch=2", "orchestrator.rl.samples=4", "orchestrator.rl.eval_every=0",
         "inference.threads=1", "trainer.threads=1")


class BabyAI(Launched):
    """deploy/babyai.sh, cut short: minigrid's bot shows, the model imitates, then acts for itself. Needs deploy/setup.sh
    --python-envs."""
    config, steps = "../../../deploy/configs/babyai.yaml", 2
    sft_steps = 30
    sets = (*SMALL, f"orchestrator.sft=[{{name: bot, max_steps: {sft_steps}, batch: 4, contexts: [none, turns], "
            "learning_rate: {begin: 3e-3, end: 1e-3}}]", "orchestrator.heldout={prompts: 4, also: [markovian]}")

    def test_the_run_of_babyai_goes_from_the_bot_to_its_report(self):
        outcome = self.finish()
        self.assertEqual(outcome["restarts"], 0)
        report = json.loads(pathlib.Path(outcome["report"]).read_text())
        self.assertGreater(report["turns_per_rollout"], 4)
        self.assertGreater(report["events_per_rollout"], 2)
        self.assertEqual(self.assert_sound()["batches_are_in_order"], self.sft_steps + self.steps)
        with contextlib.closing(sqlite3.connect(self.run_folder / "ledger.sqlite")) as ledger:
            losses = [loss for loss, in ledger.execute("SELECT loss FROM steps WHERE stage = 'bot' ORDER BY step")]
        self.assertLess(sum(losses[-5:]) / 5, 0.6 * sum(losses[:3]) / 3, "it imitates the bot")
        self.assertIn("go to the ", (self.run_folder / "report/report.md").read_text())


class Reverse(Launched):
    """The run that docs/environments.md ends with, whole."""
    config, steps = "../../../deploy/configs/reverse.yaml", 40

    def test_the_run_of_the_example_learns_as_its_page_says(self):
        outcome = self.finish()
        self.assertEqual(outcome["restarts"], 0)
        report = json.loads(pathlib.Path(outcome["report"]).read_text())
        self.assertGreater(report["events_per_rollout"], 0.9)
        self.assertGreater(report["reward_last"], report["reward_first"] + 0.1)
        self.assertGreater(report["heldout_last"]["parts"]["exact"], report["heldout_first"]["parts"]["exact"])


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    unittest.main()
