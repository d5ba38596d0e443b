#!/usr/bin/env python3
"""Metrics in the sources, docs/metrics.md, rules, dashboards and docs/operations.md tell the same; targets are written whole.

Usage: metrics_test.py, from the root of the repository. Needs the standard library only.
"""
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

ROOT = pathlib.Path.cwd()
HERE = pathlib.Path(__file__).parent
sys.dont_write_bytecode = True
sys.path[:0] = [str(ROOT / "deploy/prometheus"), str(HERE)]
import catalogue  # noqa: E402
import expressions  # noqa: E402
import targets  # noqa: E402

ADDED_BY_SCRAPING = {"run", "role", "rank", "node", "job", "instance"}
SUFFIXES = {"histogram": ("_bucket", "_sum", "_count"), "counter": ("",), "gauge": ("",)}
OF_PROMETHEUS = {"up", "ALERTS"}
ROW = re.compile(r"\| `(palimpsest_\w+)` \| (\w+)(?: \d+)? \| ([^|]*) \| [^|]+ \|")


def documented():
    """Series name -> labels that it may have, from docs/metrics.md."""
    found = {}
    for name, kind, labels in ROW.findall((ROOT / "docs/metrics.md").read_text()):
        for suffix in SUFFIXES[kind]:
            own = {label.strip("` ") for label in labels.split(",") if label.strip()}
            found.setdefault(name + suffix, set()).update(own | ({"le"} if suffix == "_bucket" else set()))
    return found


def complaints(expression, series, records):
    """What in an expression is neither documented nor recorded."""
    found = []
    bare = re.sub(r"\[[^\]]*\]", "", re.sub(r'"[^"]*"', '""', expression))  # without texts and ranges
    for name, selector in re.findall(r"([A-Za-z_:][\w:]*)(?:\{([^}]*)\})?", bare):
        if ":" in name:
            found += [] if name in records else [f"{name} is not recorded"]
        elif name.startswith("palimpsest_"):
            labels = set(re.findall(r"(\w+)\s*[=!]", selector))
            if name not in series:
                found.append(f"{name} is not in docs/metrics.md")
            elif labels - series[name] - ADDED_BY_SCRAPING:
                found.append(f"{name} has no label {sorted(labels - series[name] - ADDED_BY_SCRAPING)}")
        elif selector and name not in OF_PROMETHEUS:
            found.append(f"{name} is none of ours")
    return found


class Page(unittest.TestCase):
    def run_check(self, script):
        done = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stderr)

    def test_the_page_is_what_the_sources_declare(self):
        self.run_check("deploy/prometheus/make_docs.py")

    def test_the_dashboards_are_what_their_table_says(self):
        self.run_check("deploy/grafana/make_dashboards.py")

    def test_each_row_of_the_page_can_be_read(self):
        families = catalogue.read(ROOT)
        rows = ROW.findall((ROOT / "docs/metrics.md").read_text())
        self.assertEqual(len(rows), len(families))
        self.assertGreater(len(rows), 50)


class Declared(unittest.TestCase):
    def test_a_name_that_several_daemons_declare_is_of_one_kind(self):
        kinds = {}
        for family in catalogue.read(ROOT):
            kinds.setdefault(family.name, set()).add((family.type, family.labels))
        self.assertEqual({name: kind for name, kind in kinds.items() if len(kind) > 1}, {})

    def test_the_waits_for_all_calls_to_peers_begin_as_0(self):
        engine = ROOT / "services/orchestrator/engine"
        made = re.compile(r'(?:Persist|PersistWhile|AskTask|AskTaskOnce)\(\s*(?:\w+,\s*)?"([\w.]+)"')
        calls = {call for path in engine.glob("*.cc") for call in made.findall(path.read_text())}
        self.assertGreater(len(calls), 10)
        begun = re.search(r'"peer_wait_seconds_total".*?Begin\(\{(.*?)\}\)', (engine / "run_metrics.h").read_text(), re.DOTALL)
        self.assertEqual(set(re.findall(r'"([\w.]+)"', begun[1])), calls)


class Sources(unittest.TestCase):
    def read(self, text):
        return catalogue.read_source("services/env/x.cc", text, (1.0, 2.0))

    def test_names_helps_labels_and_buckets_are_read(self):
        text = 'auto a = m.AddHistogram({"x_seconds", "two "\n "parts", {"p", "q"}}, {0.5, 1}); // AddGauge("no")'
        self.assertEqual(self.read(text), [catalogue.Family("env", "palimpsest_x_seconds", "histogram", "two parts",
                                                            ("p", "q"), (0.5, 1.0))])

    def test_a_helper_stands_for_its_calls(self):
        text = """Gauge One(Metrics& m, const char* name, const char* help) { return m.AddGauge({name, help}).With({}); }
                  T::T(Metrics& m) : a_(One(m, "a", "first")), b_(One(m, "b", "second")) {}"""
        self.assertEqual([(f.name, f.help) for f in self.read(text)],
                         [("palimpsest_a", "first"), ("palimpsest_b", "second")])

    def test_what_is_not_understood_is_an_error_with_its_place(self):
        helper = "Gauge One(Metrics& m, const char* name, const char* help) { return m.AddGauge({name, help}); }"
        for text in ("m.AddGauge(spec);", 'void f() { m.AddGauge({kName, "help"}); }', 'm.AddGauge({"a"});',
                     'm.AddHistogram({"a", "b"}, Mine());', 'm.AddHistogram({"a", "b"});',
                     'm.AddCounter({"a", "b", labels});', helper + " x_(One(m, kName, \"h\"));",
                     helper + ' x_(One(m, "a"));'):
            with self.subTest(text), self.assertRaisesRegex(catalogue.Unreadable, r"services/env/x.cc:1: "):
                self.read(text)


class Expressions(unittest.TestCase):
    def setUp(self):
        self.series = documented()
        self.records = {name for kind, name, _ in expressions.rules() if kind == "record"}
        self.all = expressions.of_rules() + expressions.of_dashboards()

    def test_all_are_found(self):
        text = "".join(path.read_text() for path in expressions.RULES)
        self.assertEqual(len(expressions.of_rules()), text.count(" expr: "))
        self.assertGreater(len(expressions.of_dashboards()), 50)

    def test_they_name_only_what_is_documented(self):
        for expression in self.all:
            self.assertEqual(complaints(expression.text, self.series, self.records), [], expression.where)

    def test_a_wrong_name_label_or_record_is_noticed(self):
        for text in ("palimpsest_no_such_thing", "palimpsest_engine_step_seconds", 'palimpsest_step{phase="x"}',
                     "run:palimpsest_nothing:max", 'node_load1{role="env"}'):
            self.assertEqual(len(complaints(text, self.series, self.records)), 1, text)


class Alerts(unittest.TestCase):
    def setUp(self):
        self.alerts = {name: fields for kind, name, fields in expressions.rules() if kind == "alert"}

    def test_each_says_what_it_is_and_points_to_its_heading(self):
        for name, fields in self.alerts.items():
            self.assertTrue(fields["summary"], name)
            self.assertEqual(fields["runbook"], f"docs/operations.md#{name.lower()}")

    def test_the_page_has_their_headings_and_no_others(self):
        headings = re.findall(r"^## (.+)$", (ROOT / "docs/operations.md").read_text(), re.MULTILINE)
        self.assertEqual(sorted(headings), sorted(self.alerts))

    def test_links_inside_of_the_page_lead_somewhere(self):
        for link in re.findall(r"\(#(\w+)\)", (ROOT / "docs/operations.md").read_text()):
            self.assertIn(link, {name.lower() for name in self.alerts})

    def test_each_rings_in_the_unit_tests(self):
        rings = re.findall(r'alertname(?:="|: )(\w+)', (HERE / "rules.test.yml").read_text())
        self.assertEqual(set(rings), set(self.alerts))


class Targets(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder = pathlib.Path(folder.name, "run")
        self.addresses = self.run_folder / "addresses"
        self.addresses.mkdir(parents=True)
        self.out = pathlib.Path(folder.name, "targets/run.json")

    def write(self, *metrics):
        command = [sys.executable, "deploy/prometheus/targets.py", self.run_folder, "--out", self.out]
        return subprocess.run(command + [word for text in metrics for word in ("--metrics", text)], capture_output=True,
                              text=True, timeout=60)

    def test_each_daemon_that_lives_is_a_target(self):
        (self.addresses / "env-0").write_text("10.0.0.7:40001\npid 12\n")
        (self.addresses / "inference-1").write_text("[::1]:40002\npid 13\n")
        (self.addresses / "http-1").write_text("[::1]:40003\npid 13\n")  # another door of inference-1
        (self.addresses / "page-0").write_text("10.0.0.7:40004\npid 14\n")  # the orchestrator's
        (self.addresses / ".trainer-0.99").write_text("on its w")
        self.assertEqual(self.write("env=9101", "inference=9102", "inference-1=9103").returncode, 0)
        env, inference = json.loads(self.out.read_text())
        self.assertEqual(env, {"targets": ["10.0.0.7:9101"],
                               "labels": {"run": "run", "role": "env", "rank": "0", "node": "10.0.0.7"}})
        self.assertEqual(inference["targets"], ["[::1]:9103"])
        self.assertEqual(inference["labels"]["rank"], "1")
        self.assertNotIn(inference["labels"]["node"], ("[::1]", ""))
        self.assertEqual([path.name for path in self.out.parent.iterdir()], ["run.json"])

    def test_a_daemon_that_tells_where_its_metrics_are_needs_no_port(self):
        (self.addresses / "env-0").write_text("10.0.0.7:40001\nmetrics 10.0.0.7:9101\npid 12\n")
        (self.addresses / "trainer-0").write_text("127.0.0.1:40002\nmetrics 127.0.0.1:9102\npid 13\n")
        self.assertEqual(self.write().returncode, 0)
        env, trainer = json.loads(self.out.read_text())
        self.assertEqual((env["targets"], env["labels"]["node"]), (["10.0.0.7:9101"], "10.0.0.7"))
        self.assertEqual(trainer["targets"], ["127.0.0.1:9102"])
        self.assertEqual(self.write("env=1", "trainer=2").returncode, 0)
        self.assertEqual([t["targets"] for t in json.loads(self.out.read_text())], [["10.0.0.7:1"], ["127.0.0.1:2"]])

    def test_metrics_on_the_loopback_of_another_machine_are_no_target(self):
        (self.addresses / "env-0").write_text("10.0.0.7:40001\nmetrics 127.0.0.1:9101\npid 12\n")
        done = self.write()
        self.assertEqual(done.returncode, 1)
        self.assertIn("env-0: 127.0.0.1:9101 is reached from 10.0.0.7 alone; set env.metrics", done.stderr)
        self.assertEqual(json.loads(self.out.read_text()), [])

    def test_a_daemon_that_ended_is_none_any_more(self):
        address = self.addresses / "env-0"
        address.write_text("h:1\npid 12\n")
        self.write("env=9101")
        address.unlink()
        self.assertEqual(self.write("env=9101").returncode, 0)
        self.assertEqual(json.loads(self.out.read_text()), [])

    def test_the_file_is_replaced_not_written_over_and_only_where_something_changed(self):
        (self.addresses / "env-0").write_text("h:1\npid 12\n")
        self.write("env=9101")
        first = self.out.stat().st_ino
        self.write("env=9101")
        self.assertEqual(self.out.stat().st_ino, first)
        old = open(self.out)
        self.addCleanup(old.close)
        self.write("env=9102")
        self.assertIn("9101", old.read())
        self.assertIn("9102", self.out.read_text())

    def test_what_cannot_be_read_is_told_and_the_others_are_written(self):
        (self.addresses / "env-0").write_text("h:1\npid 12\n")
        (self.addresses / "trainer-0").write_text("h:1\npi")
        (self.addresses / "inference-0").write_text("h:1\npid 13\n")
        done = self.write("env=9101", "trainer=9102")
        self.assertEqual(done.returncode, 1)
        self.assertIn("trainer-0 holds no address", done.stderr)
        self.assertIn("inference-0 does not tell where its metrics are: --metrics inference=PORT", done.stderr)
        self.assertEqual(len(json.loads(self.out.read_text())), 1)

    def test_a_port_that_is_none_is_refused(self):
        for text in ("env", "env=x", "env=0", "env=65536", "Env=1"):
            self.assertEqual(self.write(text).returncode, 2, text)
        self.assertEqual(targets.port_of("env=9101"), ("env", 9101))


if __name__ == "__main__":
    unittest.main()
