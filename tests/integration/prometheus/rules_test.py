#!/usr/bin/env python3
"""Configuration and rules as promtool sees them, and the rules in virtual time. Exit code 77 where promtool is missing.

Usage: rules_test.py, from the root of the repository.
"""
import pathlib
import subprocess
import sys
import tempfile
import unittest

sys.dont_write_bytecode = True
import tools  # noqa: E402

SHIPPED = pathlib.Path("deploy/prometheus")
HERE = pathlib.Path(__file__).parent.resolve()
PROMTOOL = ""


def promtool(*arguments):
    return subprocess.run([PROMTOOL, *arguments], capture_output=True, text=True, timeout=60)


class Rules(unittest.TestCase):
    def test_configuration_and_rules_are_sound(self):
        done = promtool("check", "config", SHIPPED / "prometheus.yml")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("2 rule files found", done.stdout)

    def test_they_do_what_they_promise(self):
        done = promtool("test", "rules", *sorted(HERE.glob("*.test.yml")))
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_a_threshold_that_moved_is_noticed(self):
        with tempfile.TemporaryDirectory() as folder:
            for name in ("recording.yml", "alerts.yml"):
                text = (SHIPPED / "rules" / name).read_text()
                pathlib.Path(folder, name).write_text(text.replace("> 1e-3", "> 1e-1"))
            moved = (HERE / "rules.test.yml").read_text().replace("../../../deploy/prometheus/rules/", "")
            pathlib.Path(folder, "moved.test.yml").write_text(moved)
            done = promtool("test", "rules", pathlib.Path(folder, "moved.test.yml"))
        self.assertNotEqual(done.returncode, 0)
        self.assertIn("PalimpsestMismatch", done.stdout + done.stderr)


if __name__ == "__main__":
    PROMTOOL = tools.find("promtool")
    unittest.main()
