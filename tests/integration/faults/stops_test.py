#!/usr/bin/env python3
"""Daemons that stand still for longer than the deadlines of those who call them. Usage: see case.py."""
import signal
import sys

sys.dont_write_bytecode = True
import case  # noqa: E402
from crew import ROLES  # noqa: E402

DEADLINES = tuple(f"orchestrator.peers.{call}_deadline=3s" for call in ("env", "generate", "train"))
STOPPED = 7  # seconds: longer than these


class Stops(case.Case):
    def test_who_stands_still_for_longer_than_the_deadlines_is_waited_for(self):
        crew = self.started(*DEADLINES)
        for _ in range(5 if case.WORDS.long else 1):
            for role in self.random.sample(ROLES, len(ROLES)):
                crew.pause(self.random.random())
                crew.signal(role, signal.SIGSTOP)
                crew.pause(STOPPED)
                crew.signal(role, signal.SIGCONT)
                self.assert_sound(crew)
                crew.await_steps(1)
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        self.assertIn("DEADLINE_EXCEEDED", crew.log("orchestrator"), "the control: deadlines were met")
        self.assert_undisturbed(crew, last, *DEADLINES)


if __name__ == "__main__":
    case.main()
