#!/usr/bin/env python3
"""Daemons that are asked to end while samples are on their way and get no time for them. Usage: see case.py."""
import signal
import sys
import time

sys.dont_write_bytecode = True
import case  # noqa: E402

SOON = 30  # seconds: far less than the deadlines of a response, far more than an answer takes on a busy machine
EVALUATIONS = "SELECT name, greedy, idx, reward, text FROM evaluations ORDER BY name, greedy, idx"
# Of several turns, with an event before each but the first two, if there is something to drop.
TURNS = ("orchestrator.tasks=[rounds]",
         "orchestrator.contexts={am: {kind: turns, n_protect_turns: 1, keep_ratio: 0.4, reference_tokens: 16}}")
NO_TIME = ("orchestrator.drain_grace=0s", "inference.drain_grace=0s")


class Cuts(case.Case):
    def continued(self, crew):
        with crew.ledger() as db:
            return sum(n for (n,) in db.execute("SELECT n FROM counts WHERE what = 'continued'"))

    def assert_cuts_do_not_show(self, asked, pause, *sets):
        """Ends the orchestrator or inference `asked` times, each up to `pause` seconds after a step. The crew."""
        crew, cuts = self.started(*NO_TIME, *sets), 0
        while cuts < asked or (cuts < 5 * asked and self.continued(crew) < 3):  # a cut may fall where nobody samples
            crew.await_steps(1)
            crew.pause(pause * self.random.random())
            role = self.random.choice(["orchestrator", "orchestrator", "inference"])
            self.assertEqual(crew.kill(role, signal.SIGTERM, again=0.2 * self.random.random()), 0, crew.said())
            cuts += 1
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [], crew.said())
        continued = self.continued(crew)
        self.assertGreater(continued, 0)
        with crew.ledger() as db:
            for table in ("cut_samples", "cut_episodes"):
                self.assertEqual(db.execute(f"SELECT COUNT(*) FROM {table}").fetchone()[0], 0, table)
        for anew in ("they begin anew", "it begins anew", "a sample begins anew"):
            self.assertNotIn(anew, crew.log("orchestrator"))
        print(f"long: {cuts} cuts, {continued} samples went on from their logs, {last} steps, seed {case.WORDS.seed}")
        self.assert_undisturbed(crew, last, *sets)
        return crew

    def test_samples_that_are_cut_go_on_from_their_logs_and_the_ledger_is_that_of_an_undisturbed_run(self):
        # One after the other, so that a step samples for long enough to be met by a cut.
        self.assert_cuts_do_not_show(100 if case.WORDS.long else 12, 0.3, "inference.max_running=1")

    def test_episodes_that_are_cut_go_on_behind_their_last_whole_response_and_the_ledger_is_that_of_an_undisturbed_run(self):
        crew = self.assert_cuts_do_not_show(60 if case.WORDS.long else 8, 0.6, *TURNS)
        self.assertIn("an episode goes on from its log", crew.log("orchestrator"))
        with crew.ledger() as db:
            turns, events, rollouts = db.execute("SELECT MIN(turns), SUM(events), COUNT(*) FROM rollouts").fetchone()
        self.assertEqual(turns, 4)
        self.assertGreater(events, rollouts, "the control: compacted between turns, where they are not too short")

    def stop_orchestrator(self, crew):
        start = time.monotonic()
        self.assertEqual(crew.kill("orchestrator", signal.SIGTERM, again=None), 0, crew.said())
        self.assertLess(time.monotonic() - start, SOON, crew.said())

    def test_a_stop_does_not_wait_for_a_replica_that_is_silent(self):
        crew = self.started(*NO_TIME)
        for _ in range(5 if case.WORDS.long else 2):
            crew.pause(0.3 * self.random.random())
            crew.signal("inference", signal.SIGSTOP)
            crew.pause(1)  # by now it is waited for
            self.stop_orchestrator(crew)
            self.assert_sound(crew)
            crew.signal("inference", signal.SIGCONT)
            crew.start("orchestrator")
            crew.await_steps(1)
        last = crew.finish()
        self.assertIn("rollouts were not aborted", crew.log("orchestrator"), "the control: it was silent")
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [], crew.said())
        self.assert_undisturbed(crew, last)

    def evaluations(self, crew):
        with crew.ledger() as db:
            return db.execute(EVALUATIONS).fetchall()

    def test_a_stop_in_the_middle_of_an_evaluation_is_soon_over_and_the_evaluation_goes_on_where_it_was(self):
        often = ("orchestrator.rl.eval_every=1", "orchestrator.heldout.prompts=64")
        crew = self.started(*NO_TIME, *often)
        in_the_middle = 0
        while in_the_middle < (10 if case.WORDS.long else 2):
            crew.await_steps(1)
            crew.pause(self.random.random())
            self.stop_orchestrator(crew)
            self.assert_sound(crew)
            in_the_middle += len(self.evaluations(crew)) % 64 > 0
            crew.start("orchestrator")
        crew.await_steps(1)
        last = crew.finish(1)
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [], crew.said())
        self.assert_undisturbed(crew, last, *often)
        self.assertEqual(self.evaluations(crew), self.evaluations(self.undisturbed))


if __name__ == "__main__":
    case.main()
