#!/usr/bin/env python3
"""An environment that raises, hangs, dies or answers rubbish in 15 % of its calls. Usage: see case.py."""
import random
import sys
import unittest

sys.dont_write_bytecode = True
import case  # noqa: E402
import ks  # noqa: E402

SHARE, ALPHA = 0.15, 0.05
# Ten tries: with the five of the default one group in the run would be given up once in thirty runs (430 calls, 0.15^5 each).
BATCH = ("orchestrator.rl.prompts_per_batch=4", "orchestrator.rl.samples=8", "orchestrator.rl.max_in_flight=4",
         "orchestrator.rl.max_tries=10")


class KolmogorovSmirnov(unittest.TestCase):
    def test_distances_that_can_be_seen_by_hand(self):
        self.assertEqual(ks.distance([1, 2, 3], [1, 2, 3]), 0)
        self.assertEqual(ks.distance([1, 2], [3, 4, 5]), 1)
        self.assertAlmostEqual(ks.distance([1, 2, 3, 4], [3, 4, 5, 6]), 0.5)
        self.assertAlmostEqual(ks.distance([0, 0, 0, 1], [0, 1]), 0.25)

    def test_critical_values_are_those_of_the_tables(self):
        self.assertAlmostEqual(ks.critical(100, 100, 0.05), 1.358 * (2 / 100) ** 0.5, places=4)
        self.assertAlmostEqual(ks.critical(50, 200, 0.01), 1.628 * (250 / 10000) ** 0.5, places=3)

    def test_samples_of_one_distribution_are_told_apart_as_rarely_as_promised(self):
        source = random.Random(5)
        draw = lambda n, shift: [source.gauss(shift, 1) for _ in range(n)]  # noqa: E731
        told = sum(ks.distance(draw(200, 0), draw(200, 0)) > ks.critical(200, 200, 0.05) for _ in range(300))
        self.assertLess(told, 300 * 0.08)
        shifted = sum(ks.distance(draw(200, 0), draw(200, 0.4)) > ks.critical(200, 200, 0.05) for _ in range(50))
        self.assertGreater(shifted, 40)


class Environment(case.Case):
    def rewards(self, crew, last):
        return [(grp, sample, reward) for _, grp, sample, _, _, reward, *_ in crew.rows(last)["rollouts"]]

    def test_what_an_environment_does_to_15_percent_of_its_calls_changes_no_reward(self):
        steps = 60 if case.WORDS.long else 12
        unruly = {"share": str(SHARE), "seed": str(case.WORDS.seed), "count": str(self.folder / "count")}
        crew = self.crew(*BATCH, f"orchestrator.rl.steps={steps}", options=unruly)
        crew.start()
        crew.until("the end of the run", lambda: crew.done, 60 + 20 * steps)
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        with crew.ledger() as db:
            counts = dict(db.execute("SELECT what, n FROM counts"))
        lost = counts.get("task_failed", 0) + counts.get("infra_failed", 0)
        calls = (self.folder / "count").stat().st_size
        for way in ("RuntimeError: not today", "it ended", "it gave no answer in 1s", "it wrote what nobody asked for"):
            self.assertIn(way, crew.log("env"), "the control: it did misbehave so")

        clean = self.crew(*BATCH, f"orchestrator.rl.steps={steps}")
        clean.start()
        clean.until("the end of the clean run", lambda: clean.done, 60 + 10 * steps)
        disturbed, undisturbed = (self.rewards(c, steps) for c in (crew, clean))
        size = len(undisturbed)
        self.assertEqual((size, len(disturbed)), (steps * 32, steps * 32))
        bound = ks.critical(size, size, ALPHA)
        for what in (5, 6):  # rewards, advantages
            a, b = ([row[what] for row in c.rows(steps)["rollouts"]] for c in (crew, clean))
            self.assertLess(ks.distance(a, b), bound)
        # Nothing but chance could differ at all, and a group that nobody could make would be missing: none is.
        self.assertEqual(disturbed, undisturbed)

        # The control: had the failures been scored 0, the same test would tell.
        rewards = [reward for *_, reward in undisturbed]
        failed = set(random.Random(case.WORDS.seed).sample(range(size), round(SHARE * size)))
        told = ks.distance([0.0 if i in failed else reward for i, reward in enumerate(rewards)], rewards)
        self.assertGreater(told, bound)
        print(f"long: {calls} calls, {lost} rollouts lost, {size} rewards and advantages: KS below {bound:.3f}, "
              f"with failures scored 0 {told:.3f}; seed {case.WORDS.seed}")


if __name__ == "__main__":
    case.main()
