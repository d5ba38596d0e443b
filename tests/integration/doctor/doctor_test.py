#!/usr/bin/env python3
"""`palimpsest doctor` with the real daemons: a sound configuration, then one that is broken in each way.

Usage: doctor_test.py PATH_OF_PALIMPSEST, from the root of the repository. Needs the standard library only.
"""
import json
import pathlib
import socket
import subprocess
import sys
import tempfile
import unittest

BINARY = ""
CONFIG = "tests/integration/run/run.yaml"
ROLES = ("env", "trainer", "inference", "orchestrator")


class Doctor(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder = pathlib.Path(folder.name, "run")

    def look(self, *sets):
        command = [BINARY, "doctor", "--config", CONFIG]
        for one in (f"run.folder={self.run_folder}", *sets):
            command += ["--set", one]
        self.answer = subprocess.run(command, capture_output=True, text=True, timeout=120)
        return {check["name"]: check for check in json.loads(self.answer.stdout)["checks"]}

    def failing(self, *sets):
        checks = self.look(*sets)
        self.assertEqual(self.answer.returncode, 1, self.answer.stderr)
        failed = {name: check for name, check in checks.items() if check["verdict"] == "fail"}
        for name, check in failed.items():
            self.assertTrue(check["todo"], name)
            self.assertRegex(self.answer.stderr, f"FAIL  {name} ")
        return failed

    def test_a_sound_configuration_passes_and_nothing_is_left_behind(self):
        checks = self.look()
        self.assertEqual(self.answer.returncode, 0, self.answer.stderr)
        for name in [f"config {role}" for role in ROLES] + ["model", "writable", "rename", "fsync", "visibility"]:
            self.assertNotEqual(checks[name]["verdict"], "fail", name)
        self.assertLessEqual({"clock", "space", "inodes", "open_files", "processes", "memory", "cores"}, set(checks))
        self.assertFalse(self.run_folder.exists())
        self.assertEqual(list(self.run_folder.parent.iterdir()), [])

    def test_a_value_that_one_daemon_refuses_is_told_in_its_words(self):
        failed = self.failing("trainer.keep_versions=1")
        self.assertEqual(set(failed), {"config trainer"})
        self.assertIn("keep_versions=1", failed["config trainer"]["saw"])

    def test_an_unknown_key_is_told_too(self):
        failed = self.failing("inference.kv_pool=1GiB")
        self.assertEqual(set(failed), {"config inference", "machine"})
        self.assertIn("kv_pool", failed["config inference"]["saw"])

    def test_a_missing_model_folder_a_taken_port_and_a_folder_of_others_are_all_named_at_once(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            failed = self.failing("model.folder=/nowhere/at/all", "run.folder=/proc/run",
                                  f"env.listen=127.0.0.1:{taken.getsockname()[1]}", "inference.kv_pool_bytes=900TiB")
        self.assertLessEqual({"model", "writable", "port env.listen", "memory"}, set(failed))
        self.assertIn("/nowhere/at/all", failed["model"]["saw"])
        self.assertIn("kv_pool_bytes", failed["memory"]["todo"])


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    unittest.main()
