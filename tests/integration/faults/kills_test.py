#!/usr/bin/env python3
"""Daemons that are killed. Usage: see case.py."""
import sys
import time

sys.dont_write_bytecode = True
import case  # noqa: E402
from crew import ROLES  # noqa: E402


class Kills(case.Case):
    def test_kill_9_at_random_moments_leaves_the_ledger_of_an_undisturbed_run(self):
        crew = self.started()
        kills, times = (200 if case.WORDS.long else 20), {role: 0 for role in ROLES}
        began = time.monotonic()
        for number in range(1, kills + 1):
            # Half of them meet a daemon that is only just coming back, or one that another still waits for.
            if self.random.random() < 0.5:
                crew.await_steps(1)
            crew.pause(self.random.random())
            role = self.random.choice(crew.until("somebody who lives", lambda: list(crew.daemons)))
            times[role] += 1
            crew.kill(role, again=0.3 * self.random.random())
            if number % 5 == 0:
                self.assert_sound(crew)
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [], "the kill of one is no reason for another one to end")
        print(f"long: {kills} kills ({times}) in {time.monotonic() - began:.0f} s, {last} steps, seed {case.WORDS.seed}")
        self.assert_undisturbed(crew, last)


if __name__ == "__main__":
    case.main()
