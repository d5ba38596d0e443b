"""The daemons of a run as children of a test, which kills, stops and starts them at will.

`palimpsest launch` is left out on purpose: it gives up after three restarts of a daemon.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import re
import signal
import sqlite3
import subprocess
import sys
import time

ROLES = ("env", "trainer", "inference", "orchestrator")
# Two replicas, and a router before them for clients besides the orchestrator, which knows both.
FLEET = ("env", "trainer", "inference-0", "inference-1", "router", "orchestrator")
HERE = pathlib.Path("tests/integration/faults")
AGAIN = 0.5  # seconds until a daemon that has ended by itself is started again
PR_SET_PDEATHSIG = 1
EXIT_USAGE = 2
# What a rollout, a step and an evaluation are, without times and without who made them.
LEDGER = {
    "rollouts": "SELECT g.step, r.grp, r.sample, r.idx, r.text, r.reward, r.advantage, r.total_tokens, r.events "
                "FROM rollouts r JOIN prompt_groups g ON g.id = r.grp WHERE g.step <= ? ORDER BY r.grp, r.sample",
    "steps": "SELECT step, stage, loss, reward, sampled_tokens, events, staleness_max FROM steps WHERE step <= ? ORDER BY step",
}


def die_with_the_test():
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def await_handler(daemon, most=30):
    """Until the process handles SIGTERM: one that has just been started dies of it, as any program does."""
    until = time.monotonic() + most
    while daemon.poll() is None and time.monotonic() < until:
        status = pathlib.Path(f"/proc/{daemon.pid}/status").read_text()
        caught = int(re.search(r"SigCgt:\s*([0-9a-f]+)", status)[1], 16)
        if caught >> (signal.SIGTERM - 1) & 1:
            return
        time.sleep(0.01)


class Crew:
    """`folder`: an empty one, ours. `sets`: "a.b=c" over run.yaml. `options`: of the environment letters.py. `roles`: ROLES or FLEET."""

    def __init__(self, palimpsest, folder, *sets, options=None, roles=ROLES):
        self.palimpsest, self.base = palimpsest, pathlib.Path(folder)
        self.run, self.logs = self.base / "run", self.base / "logs"
        self.logs.mkdir(parents=True)
        worker = (f"{{name: letters, module: {HERE}/letters.py, python: {sys.executable}, options: {json.dumps(options or {})}, "
                  f"call_timeout: {'1s' if options else '60s'}}}")
        self.roles = roles
        self.sets = [f"run.folder={self.run}", f"env.workers=[{worker}]", *sets]
        if roles == FLEET:
            self.sets.append("orchestrator.peers.inference=2")
        self.daemons = {}      # role: process, while it lives
        self.start_at = {}     # role: when, while it does not
        self.ends = []         # (role, exit code) of all that ended by themselves and not well
        self.done = False      # the orchestrator has ended well

    @staticmethod
    def own(role):
        """Which daemon that is, and what it is told besides."""
        if role == "router":
            return "inference", ["router.enabled=true"]
        name, _, rank = role.partition("-")
        return name, [f"{name}.rank={rank}"] if rank else []

    def start(self, *roles):
        for role in roles or self.roles:
            program, own = self.own(role)
            command = [pathlib.Path(self.palimpsest).with_name(f"palimpsest-{program}"), "--config", HERE / "run.yaml"]
            for one in [*self.sets, *own]:
                command += ["--set", one]
            with open(self.logs / f"{role}.log", "ab") as log:
                self.daemons[role] = subprocess.Popen(
                    command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, preexec_fn=die_with_the_test,
                    env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}, start_new_session=True)
            self.start_at.pop(role, None)

    def kill(self, role, how=signal.SIGKILL, again=0.0):
        """Ends a daemon; `again`: seconds until it is started again, None: not by itself. Its exit code."""
        daemon = self.daemons.pop(role)
        if how == signal.SIGTERM:
            await_handler(daemon)
        daemon.send_signal(how)
        code = daemon.wait(timeout=90)
        if again is not None:
            self.start_at[role] = time.monotonic() + again
        return code

    def signal(self, role, how):
        self.daemons[role].send_signal(how)

    def tend(self):
        """Starts what is to be started; to be called often."""
        for role, daemon in list(self.daemons.items()):
            if daemon.poll() is None:
                continue
            del self.daemons[role]
            if role == "orchestrator" and daemon.returncode == 0:
                self.done = True
            else:
                self.ends.append((role, daemon.returncode))
                if daemon.returncode == EXIT_USAGE:
                    raise AssertionError(f"{role} refuses its configuration\n{self.said()}")
                self.start_at[role] = time.monotonic() + AGAIN
        for role, when in list(self.start_at.items()):
            if time.monotonic() >= when:
                self.start(role)

    def until(self, what, look, seconds=120):
        """Tends the daemons until `look` gives something true, which is returned."""
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tend()
            if found := look():
                return found
            time.sleep(0.02)
        raise AssertionError(f"{what}: not within {seconds} s\n{self.said()}")

    def pause(self, seconds):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            self.tend()
            time.sleep(0.02)

    def said(self):
        """The ends of all logs."""
        return "".join(f"--- {log.name}\n{log.read_text(errors='replace')[-3000:]}\n" for log in sorted(self.logs.glob("*.log")))

    def log(self, role):
        return (self.logs / f"{role}.log").read_text(errors="replace")

    @contextlib.contextmanager
    def ledger(self):
        with contextlib.closing(sqlite3.connect(f"file:{self.run}/ledger.sqlite?mode=ro", uri=True, timeout=20)) as db:
            yield db

    def step(self):
        """Of the last batch that is trained; 0 before there is one."""
        try:
            with self.ledger() as db:
                return db.execute("SELECT COALESCE(MAX(step), 0) FROM batches WHERE trained").fetchone()[0]
        except sqlite3.OperationalError:  # there is no ledger yet
            return 0

    def await_steps(self, n, seconds=120):
        """`n` more than now."""
        goal = self.step() + n
        return self.until(f"step {goal}", lambda: self.step() >= goal, seconds)

    def rows(self, last_step):
        with self.ledger() as db:
            return {name: db.execute(query, (last_step,)).fetchall() for name, query in LEDGER.items()}

    def fsck(self):
        """All findings, by check. Staleness 0 is part of what must hold."""
        ended = subprocess.run([self.palimpsest, "fsck", self.run, "--max-staleness", "0"], capture_output=True, text=True, timeout=120)
        if ended.returncode not in (0, 1):
            raise AssertionError(f"fsck: exit code {ended.returncode}: {ended.stderr}")
        return {check["name"]: check["findings"] for check in json.loads(ended.stdout)["checks"] if check["findings"]}

    def finish(self, more=2, seconds=240):
        """The run goes on for `more` steps and comes to its end; every daemon then ends well. The last step."""
        if "orchestrator" in self.daemons and (code := self.kill("orchestrator", signal.SIGTERM, again=None)) != 0:
            raise AssertionError(f"the orchestrator was asked to stop and ended with {code}\n{self.said()}")
        self.start_at.pop("orchestrator", None)
        with self.ledger() as db:
            last = db.execute("SELECT COALESCE(MAX(step), 0) FROM batches").fetchone()[0] + more
        self.sets.append(f"orchestrator.rl.steps={last}")
        self.start("orchestrator")
        self.until("the end of the run", lambda: self.done, seconds)
        self.until("all daemons", lambda: len(self.daemons) == len(self.roles) - 1)
        for role in list(self.daemons):
            code = self.kill(role, signal.SIGTERM, again=None)
            if code != 0:
                raise AssertionError(f"{role} was asked to end and did with {code}\n{self.said()}")
        return last

    def stop(self):
        """Whatever still lives is killed."""
        for role in list(self.daemons):
            self.kill(role, again=None)
