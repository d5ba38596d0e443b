#!/usr/bin/env python3
"""A real Prometheus scrapes a short run and the router before it: every expression of rules and dashboards returns data.

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
ROLES = ("env", "trainer", "inference", "orchestrator", "router")
RUN = "live"
SELECTOR = re.compile(r'(?<![\w:"])((?:[a-z_]+:)?palimpsest_[\w:]+|up)(\{[^}]*\})?')
ALTERNATIVES = re.compile(r'=~"(\w+(?:\|\w+)+)"')
PROMPTS = [{"ids": [40 + i, 50, 60]} for i in range(4)]


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


def read_by(expression):
    """The selectors in an expression, without what is asked of their values; a|b in a matcher is one of a and one of b."""
    for name, labels in SELECTOR.findall(expression):
        either = ALTERNATIVES.search(labels)
        for one in either[1].split("|") if either else [None]:
            yield name + (labels.replace(either[0], f'="{one}"') if one else labels)


def judged(expression):
    """With every comparison as a number. Subqueries look once a second: the run may last less than half a minute."""
    return re.sub(r"(?<![=!<>])(==|!=|>=|<=|>|<)(?= )", r"\1 bool", expression).replace(":30s]", ":1s]")


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
        sets = [f"run.folder={run_folder}", "orchestrator.rl.steps=192", "placement.router.replicas=1",
                *(f"{role}.metrics=127.0.0.1:{cls.metrics[role]}" for role in ROLES)]
        launch = cls.start("launch", BINARY, "launch", "--config", CONFIG, *(word for s in sets for word in ("--set", s)))
        cls.pages, cls.answers = {}, []
        while launch.poll() is None and time.time() < cls.begin + 300:
            for role in ROLES:
                with contextlib.suppress(OSError):
                    cls.pages[role] = get(f"127.0.0.1:{cls.metrics[role]}/metrics")
            cls.ask_router(run_folder / "addresses/router-0")
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

    @classmethod
    def ask_router(cls, address):
        """The run asks its replicas itself: so that the router has something to do, others ask it. It may be at its end."""
        with contextlib.suppress(OSError, subprocess.TimeoutExpired):
            server = address.read_text().splitlines()[0]
            prompt = cls.folder / "prompt.json"
            prompt.write_text(json.dumps(PROMPTS[len(cls.answers) % len(PROMPTS)]))
            done = subprocess.run([BINARY, "generate", "--server", server, "--ids-file", prompt, "--max-tokens", "4"],
                                  capture_output=True, text=True, timeout=20)
            cls.answers.append(done.returncode)

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

    def without_data(self, expressions_to_ask):
        """Those that return no number anywhere in the run, as where: expression."""
        return [f"{where}: {text}" for where, text in expressions_to_ask if not self.series(text)]

    def test_the_router_was_asked(self):
        self.assertGreaterEqual(self.answers.count(0), 3, self.answers)

    def test_every_panel_and_recorded_series_has_data(self):
        records = [expressions.Expression(name, name) for kind, name, _ in expressions.rules() if kind == "record"]
        self.assertEqual(self.without_data(expressions.of_dashboards() + records), [])

    def test_what_alerts_look_at_has_data_and_none_rings(self):
        alerts = [expressions.Expression(name, fields["expr"]) for kind, name, fields in expressions.rules() if kind == "alert"]
        # With "bool" a comparison answers 0 where it does not hold, and nothing only where there is nothing to compare.
        self.assertEqual(self.without_data([expressions.Expression(name, judged(text)) for name, text in alerts]), [])
        read = [expressions.Expression(where, selector) for where, text in alerts for selector in read_by(text)]
        self.assertGreaterEqual(len(read), len(alerts))
        self.assertEqual(self.without_data(read), [])
        self.assertEqual(self.series('ALERTS{alertstate="firing"}'), [])

    def test_labels_that_do_not_meet_are_noticed(self):
        """The control of the alerts' expressions: each side has data, the two together have none."""
        apart = ("palimpsest_ready == 1 and on (run, role) max by (run) (palimpsest_staleness) >= 0",
                 "sum by (run, rank) (palimpsest_preemptions_total) / sum by (run) (palimpsest_samples_total) >= 0")
        for text in apart:
            self.assertEqual(self.without_data([expressions.Expression("alert", one) for one in read_by(text)]), [])
            self.assertEqual(len(self.without_data([expressions.Expression("alert", judged(text))])), 1, text)

    def test_what_is_made_up_is_noticed(self):
        made_up = ["palimpsest_no_such_total", 'palimpsest_trainer_rejected_total{reason="made_up"}',
                   "rate(palimpsest_no_such_total[5s])", "run:palimpsest_no_such:max"]
        self.assertEqual(len(self.without_data([expressions.Expression("panel", text) for text in made_up])), len(made_up))
        alert = 'increase(palimpsest_trainer_rejected_total{reason=~"log|made_up"}[15m]) > 0'
        self.assertEqual(self.without_data([expressions.Expression("alert", one) for one in read_by(alert)]),
                         ['alert: palimpsest_trainer_rejected_total{reason="made_up"}'])

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
