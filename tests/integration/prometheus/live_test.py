#!/usr/bin/env python3
"""A real Prometheus scrapes a short run: every expression of rules and dashboards returns data, or is known to be silent.

Usage: live_test.py PATH_OF_PALIMPSEST, from the root of the repository. Exit code 77 where Prometheus is missing.
"""
import contextlib
import ctypes
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.parse
import urllib.request

sys.dont_write_bytecode = True
sys.path.insert(0, "deploy/prometheus")
import catalogue  # noqa: E402
import expressions  # noqa: E402
import tools  # noqa: E402

BINARY = PROMETHEUS = PROMTOOL = ""
CONFIG = "tests/integration/run/run.yaml"
ROLES = ("env", "trainer", "inference", "orchestrator")
RUN = "live"
# What a healthy run may have no series of, and why. Everything else must return data.
SILENT = {
    r"palimpsest_weights_failures_total\b": "its series begin with the first failure",
    r"palimpsest_trainer_rejected_total\b": "its series begin with the first refused rollout",
    r'palimpsest_rollouts_total\{outcome="infra_failed"\}': "its series begins with the first lost rollout",
    r"palimpsest_rollouts_infra_failed\b": "made of the line above",
    r'palimpsest_rpc_server_requests_total\{[^}]*code(!=|=~")': "its series begin with the first call that fails",
    r"palimpsest_peer_wait_seconds_total\b": "its series begin when a peer is first waited for",
    r"^ALERTS|\(ALERTS": "nothing rings",
}
SELECTOR = re.compile(r'(?<![\w:"])((?:[a-z_]+:)?palimpsest_[\w:]+|up)(\{[^}]*\})?')


def end_with_parent():
    """Prometheus would run for ever if this test were killed. 1 is PR_SET_PDEATHSIG."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)


def free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(count)]
        return [s.getsockname()[1] for s in sockets]


def get(address, seconds=5):
    with urllib.request.urlopen(f"http://{address}", timeout=seconds) as answer:
        return answer.read().decode()


def silent(expression):
    return any(re.search(pattern, expression) for pattern in SILENT)


def shipped_configuration(folder):
    """The shipped files, in a hurry."""
    shutil.copytree("deploy/prometheus/rules", folder / "rules")
    text = pathlib.Path("deploy/prometheus/prometheus.yml").read_text()
    for name, slow, fast in (("scrape", "10s", "1s"), ("evaluation", "10s", "1s"), ("refresh", "30s", "1s")):
        assert f"{name}_interval: {slow}" in text, name
        text = text.replace(f"{name}_interval: {slow}", f"{name}_interval: {fast}")
    (folder / "prometheus.yml").write_text(text)


class Live(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        shipped_configuration(cls.folder)
        *ports, port = free_ports(len(ROLES) + 1)
        cls.prometheus, cls.metrics = f"127.0.0.1:{port}", dict(zip(ROLES, ports))
        run_folder = cls.folder / "run"
        cls.begin = time.time()
        cls.start("prometheus", PROMETHEUS, f"--config.file={cls.folder / 'prometheus.yml'}",
                  f"--storage.tsdb.path={cls.folder / 'data'}", f"--web.listen-address={cls.prometheus}", "--log.level=warn")
        cls.start("targets", sys.executable, "deploy/prometheus/targets.py", run_folder, "--every", "0.5", "--run", RUN,
                  "--out", cls.folder / "targets/run.json")
        sets = [f"run.folder={run_folder}", "orchestrator.rl.steps=192",
                *(f"{role}.metrics=127.0.0.1:{cls.metrics[role]}" for role in ROLES)]
        launch = cls.start("launch", BINARY, "launch", "--config", CONFIG, *(word for s in sets for word in ("--set", s)))
        cls.pages = {}
        while launch.poll() is None and time.time() < cls.begin + 300:
            for role in ROLES:
                with contextlib.suppress(OSError):
                    cls.pages[role] = get(f"127.0.0.1:{cls.metrics[role]}/metrics")
            time.sleep(0.5)
        assert launch.poll() == 0, (cls.folder / "launch.txt").read_text()
        cls.end = time.time()

    @classmethod
    def start(cls, name, *command):
        with open(cls.folder / f"{name}.txt", "wb") as messages:
            process = subprocess.Popen([str(word) for word in command], stdout=messages, stderr=messages,
                                       env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE"}, preexec_fn=end_with_parent)
        cls.addClassCleanup(process.wait)
        cls.addClassCleanup(process.terminate)
        return process

    def series(self, expression):
        """Its series with a number anywhere in the run. A refused expression fails with Prometheus's words."""
        text = expression.replace("$run", RUN).replace("$__rate_interval", "5s")
        query = urllib.parse.urlencode({"query": text, "start": self.begin, "end": self.end, "step": 1})
        try:
            answer = json.loads(get(f"{self.prometheus}/api/v1/query_range?{query}", 30))
        except urllib.error.HTTPError as error:
            self.fail(f"{text}: {error.read().decode()}")
        return [s for s in answer["data"]["result"] if any(value != "NaN" for _, value in s["values"])]

    def test_every_daemon_was_scraped_under_its_labels(self):
        found = self.series('up{job="palimpsest"} == 1')
        self.assertEqual({(s["metric"]["run"], s["metric"]["role"], s["metric"]["rank"]) for s in found},
                         {(RUN, role, "0") for role in ROLES})
        # Prometheus takes up to 6 seconds to see new targets.
        self.assertGreaterEqual(min(len(s["values"]) for s in found), 5, "the run was too short to say anything")

    def test_every_panel_and_recorded_series_has_data(self):
        records = [expressions.Expression(name, name) for kind, name, _ in expressions.rules() if kind == "record"]
        for where, text in expressions.of_dashboards() + records:
            with self.subTest(where):
                self.assertTrue(self.series(text) or silent(text), f"{text} returned nothing")

    def test_what_alerts_look_at_has_data_and_none_rings(self):
        alerts = [expressions.Expression(name, fields["expr"]) for kind, name, fields in expressions.rules() if kind == "alert"]
        for where, text in alerts:
            with self.subTest(where):
                self.series(text)
                for name, labels in SELECTOR.findall(text):
                    self.assertTrue(self.series(name + labels) or silent(name + labels), f"{name}{labels} returned nothing")
        self.assertEqual(self.series('ALERTS{alertstate="firing"}'), [])

    def test_nothing_is_called_silent_that_is_asked_by_nobody(self):
        texts = [text for _, text in expressions.of_rules() + expressions.of_dashboards()]
        for pattern in SILENT:
            self.assertTrue(any(re.search(pattern, text) for text in texts), pattern)

    def test_the_daemons_serve_what_the_page_says(self):
        families = catalogue.read(".")
        for role in ROLES:
            told = {f.name: f for f in families if f.role in (role, catalogue.EVERY)}
            helps = dict(re.findall(r"^# HELP (\w+) (.*)$", self.pages[role], re.MULTILINE))
            types = dict(re.findall(r"^# TYPE (\w+) (.*)$", self.pages[role], re.MULTILINE))
            with self.subTest(role):
                self.assertLessEqual(set(types), set(told))
                for name, kind in types.items():
                    self.assertEqual((kind, helps[name]), (told[name].type, told[name].help), name)
                missing = {f.name for f in told.values() if not f.labels} - set(types)
                self.assertEqual(missing, set(), "declared without labels, so always there")

    def test_promtool_finds_no_fault_with_them(self):
        for role in ROLES:
            done = subprocess.run([PROMTOOL, "check", "metrics"], input=self.pages[role], capture_output=True, text=True,
                                  timeout=60)
            with self.subTest(role):
                self.assertEqual(done.returncode, 0, done.stdout + done.stderr)


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    PROMETHEUS, PROMTOOL = tools.find("prometheus"), tools.find("promtool")
    unittest.main()
