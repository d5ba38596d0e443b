#!/usr/bin/env python3
"""Curves that the orchestrator records, read back by the `tensorboard` package.

Usage: tensorboard_test.py RECORD_CURVES, from the root of the repository. 77: TensorBoard is not there.
"""
import hashlib
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import unittest

RECORD = ""

# Runs under the Python of deploy/setup.sh --tensorboard: {tag: [[step, value], ..]} of a folder, as TensorBoard shows it.
READER = """
import json, sys
from tensorboard.backend.event_processing import event_accumulator
folder = event_accumulator.EventAccumulator(sys.argv[1], size_guidance={event_accumulator.TENSORS: 0, event_accumulator.SCALARS: 0})
folder.Reload()
print(json.dumps({tag: [[e.step, e.value] for e in folder.Scalars(tag)] for tag in folder.Tags()["scalars"]}))
"""


def python():
    name = "tensorboard-" + hashlib.sha256(pathlib.Path("deploy/tensorboard.txt").read_bytes()).hexdigest()[:12]
    cache = pathlib.Path(os.environ.get("XDG_CACHE_HOME") or pathlib.Path.home() / ".cache")
    return cache / "palimpsest" / name / "bin/python"


class TensorBoard(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.run_folder = pathlib.Path(scratch.name, "run")

    def record(self, attempt, first, last):
        subprocess.run([RECORD, self.run_folder, *map(str, (attempt, first, last))], check=True, timeout=60)

    def read(self, line):
        done = subprocess.run([python(), "-W", "ignore", "-c", READER, self.run_folder / "tensorboard" / line],
                              capture_output=True, text=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def files(self, line):
        return sorted((self.run_folder / "tensorboard" / line).iterdir())

    def test_what_is_trained_and_measured_is_read_back(self):
        self.record(0, 1, 5)
        scalars = self.read("train")
        self.assertEqual(scalars["reward"], [[s, s / 16] for s in range(1, 6)])
        self.assertEqual(scalars["loss"], [[s, -s] for s in range(1, 6)])
        self.assertEqual(scalars["staleness_max"], [[s, s % 2] for s in range(1, 6)])
        self.assertEqual({value for _, value in scalars["tokens_per_second"]}, {25})
        for step, value in scalars["mismatch/max_abs"]:
            self.assertAlmostEqual(value, 1e-6 * step, delta=1e-12)
        self.assertNotIn("mismatch/kl", scalars)  # was not measured
        self.assertEqual(self.read("heldout"), {"reward": [[0, 0.25], [5, 0.5]], "reward/greedy": [[0, 0.375], [5, 0.625]]})

    def test_an_attempt_goes_on_where_one_that_was_killed_while_it_wrote_had_come(self):
        self.record(0, 1, 5)
        killed, = self.files("train")
        os.truncate(killed, killed.stat().st_size - 7)
        self.record(1, 6, 8)
        self.assertEqual(len(self.files("train")), 2)
        scalars = self.read("train")
        self.assertEqual(scalars["reward"], [[s, s / 16] for s in range(1, 9)])  # each once
        self.assertEqual([step for step, _ in self.read("heldout")["reward"]], [0, 5, 8])

    def test_a_bit_that_turned_over_is_noticed_by_the_reader(self):
        """A control: it does look at the checksums."""
        self.record(0, 1, 5)
        path, = self.files("train")
        data = bytearray(path.read_bytes())
        data[len(data) // 2] ^= 1
        path.write_bytes(data)
        self.assertLess(len(self.read("train").get("reward", [])), 5)


if __name__ == "__main__":
    RECORD = sys.argv[1]
    if not python().exists():
        print("tensorboard_test: no TensorBoard; deploy/setup.sh --tensorboard installs it", file=sys.stderr)
        sys.exit(77)
    unittest.main(argv=sys.argv[:1] + sys.argv[2:])
