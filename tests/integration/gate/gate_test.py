#!/usr/bin/env python3
"""tests/run.sh itself: what it refuses, what belongs to the gate, and what it writes about the long tests.

Usage: gate_test.py, from the root of the repository. Needs the standard library and ctest.
"""
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest
import xml.etree.ElementTree as xml

sys.dont_write_bytecode = True
import report  # noqa: E402

GATE = """<testsuite>
  <testcase name="good" time="1.5" status="run"><system-out>fine</system-out></testcase>
  <testcase name="bad" time="2" status="fail"><failure message=""/><system-out>oh</system-out></testcase>
  <testcase name="absent" time="0" status="notrun"><skipped message="SKIP_RETURN_CODE=77"/></testcase>
</testsuite>"""
LONG = """<testsuite>
  <testcase name="soak" time="1800" status="run"><system-out>test_it (__main__.Soak.test_it) ... long: seed 7
long: flat, 120 MB | 33 threads
no long: here
done</system-out></testcase>
  <testcase name="kills" time="100" status="fail"><failure message=""/><system-out>no</system-out></testcase>
</testsuite>"""


def cases(text):
    return list(xml.fromstring(text).iter("testcase"))


def names(preset):
    listed = subprocess.run(["ctest", "--preset", preset, "--show-only=json-v1"], capture_output=True, text=True, timeout=60)
    return {test["name"] for test in json.loads(listed.stdout)["tests"]}


class Gate(unittest.TestCase):
    def test_an_option_that_is_unknown_is_refused_by_name_before_anything_is_done(self):
        for words in (["--lang"], ["--long", "--fast"], ["--long", "asan", "msan"], ["long"]):
            refused = subprocess.run(["tests/run.sh", *words], capture_output=True, text=True, timeout=10)
            self.assertEqual(refused.returncode, 2, refused.stdout)
            self.assertEqual(refused.stdout, "")
            self.assertIn(f"got: {' '.join(words)}", refused.stderr)

    def test_a_long_test_is_not_in_the_gate_and_there_are_both(self):
        gate, long = names("release"), names("long")
        self.assertIn("arch", gate)
        self.assertIn("engine_soak_30m", long)
        self.assertEqual(gate & long, set())

    def test_the_report_has_a_line_for_each_long_test_and_says_what_the_gate_lacks(self):
        text = report.report({"gate": ("Commit abc1234.", cases(GATE)), "long": ("Commit def5678.", cases(LONG))})
        self.assertIn("## The gate\n\nCommit abc1234. 1 of 3 tests passed, 1 failed, 1 were skipped.\n\n- `bad`: failed\n- `absent`: skipped\n", text)
        self.assertIn("## The long tests\n\nCommit def5678. 1 of 2 tests passed, 1 failed", text)
        self.assertIn("| kills | failed | 100 s |  |\n| soak | passed | 30.0 min | seed 7; flat, 120 MB / 33 threads |\n", text)

    def test_the_report_says_what_the_sanitizers_found_what_was_not_built_and_what_was_not_run(self):
        with tempfile.TemporaryDirectory() as folder:
            folder = pathlib.Path(folder)
            for part in ("asan", "tsan"):
                (folder / f"{part}.where").write_text("Commit abc1234.\n")
            (folder / "asan.xml").write_text(GATE)
            text = report.report(report.read(folder))
        self.assertIn("## The gate\n\nNot run.\n\n## The long tests\n\nNot run.\n", text)
        self.assertTrue(text.endswith("Commit abc1234. 1 of 3 tests passed, 1 failed, 1 were skipped.\n\n"
                                      "- `bad`: failed\n- `absent`: skipped\n\n"
                                      "## Under the preset tsan\n\nCommit abc1234. It was not built, no test ran.\n"), text)

    def test_skipped_tests_are_named_and_fail_what_does_not_allow_them(self):
        with tempfile.TemporaryDirectory() as folder:
            for part, text in (("gate", GATE), ("long", LONG)):
                pathlib.Path(folder, f"{part}.where").write_text("Commit abc1234.\n")
                pathlib.Path(folder, f"{part}.xml").write_text(text)
            pathlib.Path(folder, "asan.where").write_text("Commit abc1234.\n")

            def ask(allowed, *parts):
                return subprocess.run([sys.executable, report.__file__, "--skipped", folder, *parts], capture_output=True, text=True,
                                      timeout=60, env={**os.environ, "PALIMPSEST_ALLOW_SKIPS": allowed})
            named = "SKIPPED, nothing proven: 1 of 3 tests of gate: absent\n"
            for allowed, code in (("", 1), ("0", 1), ("1", 0)):
                done = ask(allowed, "gate", "long", "asan", "tsan")
                self.assertEqual((done.stdout, done.returncode), (named, code), done.stderr)
            done = ask("", "long", "asan")
            self.assertEqual((done.stdout, done.returncode), ("no test was skipped\n", 0), done.stderr)

    def test_this_machine_is_described_without_its_name(self):
        self.assertRegex(report.this_host(), r"^\d+ cores \(.+\), \d+ GiB, Linux ")


if __name__ == "__main__":
    unittest.main()
