#!/usr/bin/env python3
"""Runs on a real Slurm of two nodes, each with its own network, host name, processes and FUSE mount of the run's folder.

Usage: slurm_test.py PATH_OF_PALIMPSEST [TEST..], from the root of the repository, as root. Needs the standard library and
what `deploy/setup.sh --slurm` brings. Where namespaces or root are not to be had it says so and exits with 77.
"""
import contextlib
import datetime
import json
import os
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import time
import unittest

import cluster
from cluster import sh, wait_for

BINARY = ""
ROOT = pathlib.Path.cwd()
CONFIG = ROOT / "tests/integration/slurm/run.yaml"
STEPS = 20  # of RL, after those of the supervised stage
SFT_STEPS = 50
AGAIN = 75
LEDGER = {
    "rollouts": "SELECT g.step, r.grp, r.sample, r.seed, r.idx, r.text, r.reward, r.advantage, r.total_tokens, r.events "
                "FROM rollouts r JOIN prompt_groups g ON g.id = r.grp WHERE g.step IS NOT NULL ORDER BY r.grp, r.sample",
    "steps": "SELECT step, stage, loss, reward, sampled_tokens, mean_total_tokens, events, staleness_max FROM steps ORDER BY step",
    "evaluations": "SELECT name, greedy, idx, reward, text, total_tokens, events FROM evaluations ORDER BY name, greedy, idx",
}


class Job:
    """One run, submitted as its user would."""

    def __init__(self, slurm, name, *sets, options=()):
        self.slurm, self.name = slurm, name
        self.folder = slurm.shared / name
        where = (f"run.folder={self.folder}", f"tls.folder={slurm.shared}/tls")
        self.config = [CONFIG, *(part for text in (*where, *sets) for part in ("--set", text))]
        self.id, self.out = self.submit(*options)

    def submit(self, *options, sets=()):
        # As in a job that asked for GPUs: srun would take it for the wish of every step, and refuse it on these nodes.
        asked = {"SLURM_GPUS": "4", "SLURM_GPUS_PER_NODE": "4", "SLURM_GPUS_PER_TASK": "4"}
        out = self.slurm.shared / f"{self.name}-%j.out"
        job_id = sh("sbatch", "--parsable", "--time=30", f"--job-name={self.name}", f"--output={out}", *options,
                    ROOT / "deploy/slurm/run.sbatch", *self.config, *(part for text in sets for part in ("--set", text)), cwd=self.slurm.checkout,
                    env={**os.environ, **asked}).strip()
        return job_id, pathlib.Path(str(out).replace("%j", job_id))

    def said(self):
        return self.out.read_text() if self.out.exists() else ""

    def await_message(self, pattern, seconds=120):
        """The first match of `pattern` in what launch said, once there is one."""
        def look():
            found = re.search(pattern, self.said())
            if found is None and self.field("JobState") in ("FAILED", "COMPLETED", "TIMEOUT", "CANCELLED", "NODE_FAIL"):
                found = re.search(pattern, self.said())
                if found is None:
                    raise AssertionError(f"the job is over without {pattern!r}: {self.trouble()}")
            return found
        try:
            return wait_for(pattern, look, seconds)
        except TimeoutError as error:
            raise AssertionError(f"{error}: {self.trouble()}") from None

    def await_step(self, step):
        later = "|".join(str(s) for s in range(step, STEPS + 1))
        return self.await_message(rf"rl ({later})/{STEPS} ")

    def field(self, name, job_id=None):
        return self.slurm.job(job_id or self.id).get(name, "")

    def outcomes(self):
        """What each attempt said at its end."""
        return [json.loads(line) for line in self.said().splitlines() if line.startswith('{"')]

    def finish(self, job_id=None):
        def over():
            state = self.field("JobState", job_id)
            if state in ("FAILED", "TIMEOUT", "CANCELLED", "NODE_FAIL"):
                raise AssertionError(f"{state}: {self.trouble()}")
            return state == "COMPLETED"
        wait_for("the end of the job", over, 240)

    def trouble(self):
        logs = "".join(f"\n--- {log}\n{log.read_text()[-1500:]}" for log in sorted(self.folder.glob("logs/latest/*.log")))
        return self.said()[-4000:] + logs

    @contextlib.contextmanager
    def database(self):
        with tempfile.TemporaryDirectory() as copy:  # reading it in place would touch its log
            for part in self.folder.glob("ledger.sqlite*"):
                shutil.copy(part, copy)
            with contextlib.closing(sqlite3.connect(pathlib.Path(copy, "ledger.sqlite"))) as db:
                yield db

    def ledger(self):
        with self.database() as db:
            return {name: db.execute(query).fetchall() for name, query in LEDGER.items()}

    def count(self, what):
        with self.database() as db:
            return sum(n for (n,) in db.execute("SELECT n FROM counts WHERE what = ?", (what,)))


class Slurm(unittest.TestCase):
    undisturbed = None  # the ledger of the first run, which all others must repeat

    @classmethod
    def setUpClass(cls):
        cls.maxDiff = 2000
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory(prefix="palimpsest-slurm-")))
        for name in ("slurm", "shared", "checkout/build/release"):
            (folder / name).mkdir(parents=True)
        # What the user has on the cluster: a checkout with a build. The binaries are those under test.
        (folder / "checkout/build/release/bin").symlink_to(pathlib.Path(BINARY).resolve().parent)
        # For no node by name: what the daemons compare is the role.
        subprocess.run([ROOT / "deploy/tls/make-certs.sh", folder / "shared"], check=True, capture_output=True, timeout=60)
        cls.slurm = cluster.Cluster(folder / "slurm", folder / "shared")
        cls.addClassCleanup(cls.slurm.stop)
        cls.slurm.checkout = folder / "checkout"

    def assert_same_ledger(self, job):
        ledger = job.ledger()
        self.assertEqual([row[0] for row in ledger["steps"]], list(range(1, SFT_STEPS + STEPS + 1)))
        for table, rows in ledger.items():
            self.assertEqual(rows, self.undisturbed[table], table)
        self.assert_sound(job)

    def assert_sound(self, job):
        looked = subprocess.run([BINARY, "fsck", job.folder], capture_output=True, text=True, timeout=120)
        self.assertEqual(looked.returncode, 0, looked.stderr)

    def log(self, job, attempt, name):
        return (job.folder / f"logs/attempt-{attempt:03}" / f"{name}.log").read_text()

    def events(self, job, attempt, name, message):
        lines = (json.loads(line) for line in self.log(job, attempt, name).splitlines() if line.startswith("{"))
        return [line for line in lines if line["msg"] == message]

    def test_1_a_run_crosses_two_nodes_and_the_next_job_of_its_chain_ends_at_once(self):
        job = Job(self.slurm, "plain")
        chained, out = job.submit("--dependency=singleton")
        job.finish()
        [outcome] = job.outcomes()
        self.assertEqual(outcome["exit_code"], 0)
        self.assertEqual(outcome["job"], {"id": job.id, "restart": 0, "nodes": ["node0", "node1"]})
        self.assertEqual(outcome["restarts"], 0)
        self.assertIn('"address":"node1:', self.log(job, 1, "inference-0"))
        self.assertIn('"address":"node0:', self.log(job, 1, "trainer-0"))
        self.assertEqual((job.folder / "logs/latest").readlink(), pathlib.Path("attempt-001"))
        type(self).undisturbed = job.ledger()
        self.assertEqual(len(self.undisturbed["rollouts"]), STEPS * 4 * 8)
        losses = [loss for _, stage, loss, *_ in self.undisturbed["steps"] if stage == "rl"]
        self.assertTrue(any(losses), "without a gradient the ledgers say nothing about the trainer")
        job.finish(chained)
        self.assertIn("this run is over", out.read_text())
        self.assertFalse((job.folder / "logs/attempt-002").exists())
        further, out = job.submit("--dependency=singleton", sets=(f"orchestrator.rl.steps={STEPS + 1}",))
        wait_for("the end of the job that asks for more", lambda: job.field("JobState", further) == "FAILED", 120)
        self.assertIn(f"orchestrator.rl.steps={STEPS + 1}, but the run in {job.folder} is over after {STEPS}", out.read_text())

    def refuse_beside(self, job):
        """Another launch, at the other node, whose mount knows nothing of the first one's lock."""
        here = ("placement.env.nodes=[0]", "placement.inference.nodes=[0]", "placement.inference.cpus=0", "placement.trainer.cpus=0")
        orchestrator = (job.folder / "addresses/orchestrator-0").read_text().split()[-1]
        self.slurm.run_at("node0", "kill", "-STOP", orchestrator)  # the run is not over before
        with self.assertRaisesRegex(RuntimeError, r"another launch or serve is at work there: node0, pid \d+"):
            self.slurm.run_at("node1", pathlib.Path(BINARY).resolve(), "launch", "--config", *job.config,
                              *(part for text in here for part in ("--set", text)))
        self.slurm.run_at("node0", "kill", "-CONT", orchestrator)
        self.assertFalse((job.folder / "logs/attempt-002").exists())

    def test_2_warned_in_the_middle_it_is_queued_again_and_leaves_the_same_ledger(self):
        # What is saved is saved because of the warning, and samples get no time: what there is of them goes on later.
        job = Job(self.slurm, "warned", "trainer.checkpoint_every=0", "orchestrator.drain_grace=0s")
        job.await_step(2)
        self.refuse_beside(job)
        sh("scancel", "--batch", "--signal=USR1", job.id)
        job.finish()  # Slurm waits until the credentials of the first start have died: cred_expire, 5 s here
        first, second = job.outcomes()
        self.assertEqual((first["exit_code"], first["attempt"], first["job"]["restart"]), (AGAIN, 1, 0))
        self.assertNotIn("failure", first)
        self.assertEqual((second["exit_code"], second["attempt"], second["job"]["restart"]), (0, 2, 1))
        self.assertNotIn("did not stop", job.said())
        self.assertNotIn("is behind", self.log(job, 2, "orchestrator-0"))
        # The trainer had saved all that was trained; the batch that the warning cut off may be in the ledger already.
        [resumed] = self.events(job, 2, "trainer-0", "resumed from a checkpoint")
        trained = self.events(job, 1, "orchestrator-0", "step trained")[-1]["step"]
        self.assertIn(resumed["step"], (trained, trained + 1))
        left = self.events(job, 1, "orchestrator-0", "a group is left with what there is of it")
        self.assertEqual(job.count("continued"), sum(line["cut"] for line in left))
        self.assert_same_ledger(job)

    def test_3_a_dead_daemon_comes_back_the_fleet_shrinks_by_a_lost_node_and_the_store_does_not_wait_for_it(self):
        job = Job(self.slurm, "shrunk", "placement.inference.replicas=2", "placement.inference.nodes=[0,1]", "placement.env.nodes=[0]")
        job.await_step(1)
        pid = (job.folder / "addresses/env-0").read_text().split()[-1]
        self.slurm.run_at("node0", "kill", "-9", pid)
        job.await_message("env-0 ended: exit code 137; restart 1 of 3")
        job.await_step(3)
        self.slurm.kill("node1")
        orchestrator = (job.folder / "addresses/orchestrator-0").read_text().split()[-1]
        self.slurm.run_at("node0", "kill", "-STOP", orchestrator)  # not done before the dead reader's lease is
        lease = json.loads((job.folder / "store/acks/inference-1.json").read_text())
        expires = datetime.datetime.fromisoformat(lease["expires"])
        wait_for("the end of the lease", lambda: datetime.datetime.now(datetime.timezone.utc) > expires)
        self.slurm.run_at("node0", "kill", "-CONT", orchestrator)
        job.finish()
        self.slurm.revive("node1")
        [outcome] = job.outcomes()
        self.assertEqual((outcome["exit_code"], outcome["restarts"], outcome.get("lost")), (0, 1, ["inference-1"]))
        self.assert_same_ledger(job)
        left = sorted(int(folder.name[1:]) for folder in (job.folder / "store").glob("v*"))
        self.assertGreater(left[0], lease["version"], "what the dead reader served is collected")

    def test_4_without_its_trainer_the_job_is_queued_again_and_leaves_the_same_ledger(self):
        job = Job(self.slurm, "beheaded", "placement.trainer.nodes=[1]", "placement.inference.nodes=[0]", "placement.env.nodes=[0]")
        job.await_step(5)
        self.slurm.kill("node1")
        job.await_message("the job goes back into the queue")
        self.slurm.revive("node1")
        job.finish()
        first, second = job.outcomes()
        self.assertEqual((first["exit_code"], second["exit_code"]), (AGAIN, 0))
        self.assertIn("trainer-0 failed", first["failure"])
        self.assertIn("its node is lost", first["failure"])
        self.assertEqual(second["job"]["restart"], 1)
        self.assert_same_ledger(job)

    def test_5_what_would_fail_again_ends_the_job_with_the_daemons_own_words(self):
        job = Job(self.slurm, "hopeless", f"model.folder={self.slurm.shared}")  # a folder without a model
        wait_for("the failure of the job", lambda: job.field("JobState") == "FAILED", 120)
        self.assertEqual(len(job.outcomes()), 1, job.trouble())
        [outcome] = job.outcomes()
        self.assertEqual((outcome["exit_code"], outcome["restarts"]), (3, 0))
        self.assertIn("trainer-0 failed: exit code 3", outcome["failure"])
        self.assertIn(f"NOT_FOUND: {self.slurm.shared}", outcome["cause"])
        self.assertIn("srun: error", self.log(job, 1, "trainer-0"), "the control: the log ends with words of srun")

    def test_6_doctor_looks_at_every_node_and_at_what_is_between_them(self):
        command = ["salloc", "--quiet", "--nodes=2", "--exclusive", pathlib.Path(BINARY).resolve(), "doctor", "--slurm", "--config", CONFIG,
                   "--set", f"run.folder={self.slurm.shared}/looked-at"]
        tls = ("--set", f"tls.folder={self.slurm.shared}/tls")

        def look(*more):
            return subprocess.run([str(word) for word in [*command, *more]], capture_output=True, text=True, timeout=120)

        ended = look(*tls)
        checks = json.loads(ended.stdout)["checks"]
        self.assertEqual([check for check in checks if check["verdict"] == "fail"], [], ended.stderr)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        seen = {(check.get("node"), check["name"]): check for check in checks}
        for node, other in (("node0", "node1"), ("node1", "node0")):
            for what in ("network", "clock", "visibility"):
                self.assertIn((node, f"{what} to {other}"), seen)
            # bindfs remembers attributes and missing names for 3 seconds; doctor's look, as our readers', is a listing.
            delay = float(re.search(r"after ([\d.]+) ms", seen[node, f"visibility to {other}"]["saw"])[1])
            self.assertLess(delay, 10_000)
        self.assertIn((None, "config trainer"), seen, "what passes on both is told once")
        for more, node, name, said in (
                ((*tls, "--set", "placement.trainer.cpus=17"), "node0", "cpus",
                 "placement gives 17 to daemons of this node, the job has 16 there"),
                (("--set", "tls.folder=''"), "node1", "config trainer", "nothing there is encrypted")):
            looked = json.loads(look(*more).stdout)["checks"]
            failed = {(check.get("node"), check["name"]): check["saw"] for check in looked if check["verdict"] == "fail"}
            self.assertIn(said, failed.get((node, name), str(failed)))
            self.assertNotIn(("node1", "cpus"), failed)

    def test_7_two_ranks_of_the_trainer_on_two_nodes_learn_what_one_learns(self):
        job = Job(self.slurm, "ranks", "placement.trainer.ranks=2", "placement.trainer.nodes=[0,1]",
                  "placement.trainer.cpus=1", "placement.inference.cpus=1")
        job.finish()
        [outcome] = job.outcomes()
        self.assertEqual((outcome["exit_code"], outcome["restarts"]), (0, 0))
        [joined] = self.events(job, 1, "trainer-1", "joined")
        self.assertEqual((joined["rank"], joined["ranks"], joined["encrypted"]), (1, 2, True))
        alone, ranks = self.undisturbed["steps"], job.ledger()["steps"]
        self.assertEqual(len(ranks), len(alone))
        for one, two in zip(alone[:SFT_STEPS], ranks[:SFT_STEPS]):  # the same batches, whatever was sampled later
            self.assertAlmostEqual(one[2], two[2], delta=1e-4, msg=f"the loss of step {one[0]}")
        self.assert_sound(job)

    def test_8_without_the_node_of_launch_the_others_queue_the_job_again_and_the_ledger_is_the_same(self):
        job = Job(self.slurm, "orphaned")  # the trainer and the orchestrator are on node 0, too
        job.await_step(5)
        self.slurm.kill("node0")
        wait_for("the job's way back into the queue", lambda: job.field("Restarts") == "1", 60)
        self.slurm.revive("node0")
        job.finish()
        *first, outcome = job.outcomes()
        self.assertNotIn(0, [before["exit_code"] for before in first])  # there were moments for its last words, or none
        self.assertEqual((outcome["exit_code"], outcome["attempt"], outcome["job"]["restart"]), (0, 2, 1))
        self.assertTrue(self.events(job, 2, "trainer-0", "resumed from a checkpoint"))
        self.assert_same_ledger(job)

    def preempt(self, job):
        """A job of the partition `high` takes both nodes from it; its id, once it runs."""
        until = self.slurm.shared / f"{job.name}-is-looked-at"
        urgent = sh("sbatch", "--parsable", "--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null",
                    f"--wrap=until [ -e {until} ]; do sleep 0.2; done", cwd=self.slurm.checkout).strip()
        wait_for("the other's turn", lambda: job.field("JobState", urgent) == "RUNNING", cluster.GRACE + 30)
        self.assertEqual(job.field("JobState"), "PENDING", job.trouble())
        until.touch()
        return urgent

    def test_9_preempted_it_saves_waits_for_the_other_and_leaves_the_same_ledger(self):
        # As when warned (test 2): what is saved is saved because Slurm sent USR1, with GraceTime before the end.
        job = Job(self.slurm, "preempted", "trainer.checkpoint_every=0", "orchestrator.drain_grace=0s", options=["--partition=low"])
        job.await_step(2)
        urgent = self.preempt(job)
        job.finish()
        self.assertEqual(job.field("JobState", urgent), "COMPLETED")
        first, second = job.outcomes()
        self.assertEqual((first["exit_code"], first["attempt"], first["job"]["restart"]), (AGAIN, 1, 0))
        self.assertEqual((second["exit_code"], second["attempt"], second["job"]["restart"]), (0, 2, 1))
        self.assertIn("stopped by signal 10", job.said())
        self.assertNotIn("did not stop", job.said())
        [resumed] = self.events(job, 2, "trainer-0", "resumed from a checkpoint")
        trained = self.events(job, 1, "orchestrator-0", "step trained")[-1]["step"]
        self.assertIn(resumed["step"], (trained, trained + 1))
        self.assert_same_ledger(job)

    def test_a_preempted_without_a_warning_it_is_queued_again_and_leaves_the_same_ledger(self):
        # Slurm's way with GraceTime, where the site does not set preempt_send_user_signal: SIGTERM to all steps, none to the script.
        job = Job(self.slurm, "asked-to-end", "orchestrator.drain_grace=0s")
        job.await_step(2)
        sh("scancel", "--signal=TERM", job.id)
        job.finish()
        first, second = job.outcomes()
        self.assertEqual((first["exit_code"], second["exit_code"], second["job"]["restart"]), (AGAIN, 0, 1))
        self.assertIn("asked to stop before the run was over", job.said())
        self.assert_same_ledger(job)
        # And without GraceTime: killed where it stands, and queued again by Slurm itself.
        job = Job(self.slurm, "shot", options=["--partition=scavenger"])
        job.await_step(2)
        self.preempt(job)
        job.finish()
        *first, outcome = job.outcomes()
        self.assertNotIn(0, [before["exit_code"] for before in first])  # there were moments for its last words, or none
        self.assertEqual((outcome["exit_code"], outcome["attempt"], outcome["job"]["restart"]), (0, 2, 1))
        self.assert_same_ledger(job)

    def test_b_warned_by_slurms_own_clock_it_is_queued_again_and_leaves_the_same_ledger(self):
        # Slurm looks every 30 s, and warns up to so much too early: with these the first time that it looks.
        job = Job(self.slurm, "timed", options=["--time=1", "--signal=B:USR1@45"])
        job.await_step(2)
        orchestrator = (job.folder / "addresses/orchestrator-0").read_text().split()[-1]
        self.slurm.run_at("node0", "kill", "-STOP", orchestrator)  # not done before
        job.await_message("stopped by signal 10", 60)
        self.slurm.run_at("node0", "kill", "-CONT", orchestrator)
        wait_for("the job's way back into the queue", lambda: job.field("Restarts") == "1", 60)
        self.slurm.scontrol("update", f"jobid={job.id}", "TimeLimit=30")
        job.finish()
        first, second = job.outcomes()
        self.assertEqual((first["exit_code"], second["exit_code"], second["job"]["restart"]), (AGAIN, 0, 1))
        self.assert_same_ledger(job)


if __name__ == "__main__":
    cluster.enter()
    BINARY = sys.argv.pop(1)
    unittest.main(verbosity=2, warnings="ignore")  # of the servers that live until the namespaces end
