#!/usr/bin/env python3
"""tests/simulation/run.sh and the binary behind it: numbers of seeds that would simulate nothing are refused.

Usage: run_test.py BUILD_FOLDER, from the root of the repository.
"""
import os
import subprocess
import sys
import unittest

BUILD = ""


class Run(unittest.TestCase):
    def refused(self, said, *command, **environment):
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, env={**os.environ, **environment})
        self.assertEqual(done.returncode, 2, done.stdout + done.stderr)
        self.assertIn(said, done.stderr)

    def test_arguments_that_are_no_numbers_of_seeds_are_named(self):
        for seeds in ("", "0", "-3", "ten", "1.5", "010", "1" * 16):
            self.refused(f"SEEDS={seeds} is no whole number", "tests/simulation/run.sh", seeds, "1", BUILD)
        for first in ("-1", "x"):
            self.refused(f"FIRST_SEED={first} is no whole number", "tests/simulation/run.sh", "1", first, BUILD)
        self.refused("BUILD_FOLDER=/nope has no", "tests/simulation/run.sh", "1", "1", "/nope")

    def test_an_environment_that_asks_for_no_history_is_named(self):
        only = (f"{BUILD}/bin/simulation_test", "--gtest_filter=*NoPromise*")
        for value in ("0", "-3", "ten", ""):
            self.refused(f"PALIMPSEST_SIMULATION_SEEDS={value} is no", *only, PALIMPSEST_SIMULATION_SEEDS=value)
        self.refused("PALIMPSEST_SIMULATION_FIRST=-1 is no", *only, PALIMPSEST_SIMULATION_FIRST="-1")

    def test_one_seed_is_simulated(self):
        done = subprocess.run(["tests/simulation/run.sh", "1", "7", BUILD], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("no promise broken in 1 seeds from 7 on", done.stdout)


if __name__ == "__main__":
    BUILD = sys.argv.pop(1)
    unittest.main()
