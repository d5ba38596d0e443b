#!/usr/bin/env python3
"""Daemons that are asked to end while samples are on their way and get no time for them. Usage: see case.py."""
import signal
import sys

sys.dont_write_bytecode = True
import case  # noqa: E402

NO_TIME = ("orchestrator.drain_grace=0s", "inference.drain_grace=0s")


class Cuts(case.Case):
    def continued(self, crew):
        with crew.ledger() as db:
            return sum(n for (n,) in db.execute("SELECT n FROM counts WHERE what = 'continued'"))

    def test_samples_that_are_cut_go_on_from_their_logs_and_the_ledger_is_that_of_an_undisturbed_run(self):
        crew = self.started(*NO_TIME)
        asked, cuts = (100 if case.WORDS.long else 12), 0
        while cuts < asked or (cuts < 5 * asked and not self.continued(crew)):  # a cut may fall where nobody samples
            crew.await_steps(1)
            crew.pause(0.3 * self.random.random())
            role = self.random.choice(["orchestrator", "orchestrator", "inference"])
            self.assertEqual(crew.kill(role, signal.SIGTERM, again=0.2 * self.random.random()), 0, crew.said())
            cuts += 1
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [], crew.said())
        continued = self.continued(crew)
        self.assertGreater(continued, 0)
        with crew.ledger() as db:
            self.assertEqual(db.execute("SELECT COUNT(*) FROM cut_samples").fetchone()[0], 0)
        self.assertNotIn("they begin anew", crew.log("orchestrator"))
        print(f"long: {cuts} cuts, {continued} samples went on from their logs, {last} steps, seed {case.WORDS.seed}")
        self.assert_undisturbed(crew, last)


if __name__ == "__main__":
    case.main()
