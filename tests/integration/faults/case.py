"""What the tests of faults share: their words on the command line, their crews, and what must hold after each fault.

    X_test.py PALIMPSEST [--long [--minutes N]] [--seed N] [TEST..]
"""
import argparse
import pathlib
import random
import sys
import tempfile
import time
import unittest

from crew import Crew

WORDS = argparse.Namespace(palimpsest="", long=False, seed=0, minutes=30)


class Case(unittest.TestCase):
    maxDiff = 2000

    def setUp(self):
        # A name for each test: what one draws does not hang on which others ran before it.
        self.random = random.Random(f"{WORDS.seed}/{self.id()}")
        folder = tempfile.TemporaryDirectory(prefix="palimpsest-faults-")
        self.addCleanup(folder.cleanup)
        self.folder = pathlib.Path(folder.name)
        self.crews = 0

    def crew(self, *sets, **options):
        """Not started yet."""
        self.crews += 1
        crew = Crew(WORDS.palimpsest, self.folder / f"crew-{self.crews}", *sets, **options)
        self.addCleanup(crew.stop)
        return crew

    def started(self, *sets, **options):
        """With the first steps trained."""
        crew = self.crew(*sets, **options)
        crew.start()
        crew.await_steps(2)
        return crew

    def assert_sound(self, crew):
        self.assertEqual(crew.fsck(), {}, crew.said())

    def assert_undisturbed(self, crew, last_step, *sets):
        """The ledger is that of a run to which nothing happened: no prompt, draw, reward or gradient is another."""
        self.undisturbed = other = self.crew(*sets, f"orchestrator.rl.steps={last_step}")
        other.start()
        other.until("the end of the undisturbed run", lambda: other.done, 60 + 4 * last_step)
        self.assertEqual(other.ends, [])
        disturbed, undisturbed = crew.rows(last_step), other.rows(last_step)
        for table, rows in undisturbed.items():
            self.assertEqual(disturbed[table], rows, table)
        losses = [loss for _, _, loss, *_ in undisturbed["steps"]]
        self.assertEqual(len(losses), last_step)
        self.assertTrue(any(losses), "without gradients the ledgers say nothing about the trainer")


def main():
    """Of each file of tests. The seed is told, and drawn where none is given."""
    parser = argparse.ArgumentParser()
    parser.add_argument("palimpsest")
    parser.add_argument("--long", action="store_true", help="more of everything")
    parser.add_argument("--seed", type=int, default=None, help="of what happens when")
    parser.add_argument("--minutes", type=int, default=30, help="of the soak in --long; fewer are a look, not a proof")
    words, rest = parser.parse_known_args()
    WORDS.palimpsest, WORDS.long, WORDS.minutes = words.palimpsest, words.long, words.minutes
    WORDS.seed = int(time.time()) if words.seed is None else words.seed
    print(f"seed {WORDS.seed}: again with --seed {WORDS.seed}", flush=True)
    unittest.main(module="__main__", argv=[sys.argv[0], *rest], verbosity=2)
