#!/usr/bin/env python3
"""Daemons that are killed. Usage: see case.py."""
import contextlib
import http.client
import json
import sys
import threading
import time

sys.dont_write_bytecode = True
import case  # noqa: E402
from crew import FLEET, ROLES  # noqa: E402

DOOR = "router.http.listen=127.0.0.1:0"
ASK = {"model": "faults", "prompt": "abcdefgh:", "max_tokens": 20, "ignore_eos": True}


class Client(threading.Thread):
    """Of the door before the fleet, until the end of the block: asks again and again, wherever the router is by then."""

    def __init__(self, address_file):
        super().__init__()
        self.address_file, self.over = address_file, threading.Event()
        self.answers, self.refusals, self.broken = 0, 0, []  # whole ones; with another status or none at all; 200 and not whole

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.join()

    def run(self):
        while not self.over.wait(0.1):
            try:
                self.ask()
            except (OSError, http.client.HTTPException, ValueError):  # nobody there, or gone in the middle
                self.refusals += 1

    def ask(self):
        host, port = self.address_file.read_text().split()[0].rsplit(":", 1)
        with contextlib.closing(http.client.HTTPConnection(host, int(port), timeout=20)) as line:
            line.request("POST", "/v1/completions", json.dumps(ASK), {"Content-Type": "application/json"})
            reply = line.getresponse()
            said = json.loads(reply.read())
        if reply.status != 200:
            self.refusals += 1
        elif said["usage"]["completion_tokens"] == ASK["max_tokens"] and said["choices"][0]["finish_reason"] == "length":
            self.answers += 1
        else:
            self.broken.append(said)


class Kills(case.Case):
    def test_kill_9_at_random_moments_leaves_the_ledger_of_an_undisturbed_run(self):
        crew = self.started()
        kills, times = (120 if case.WORDS.long else 12), {role: 0 for role in ROLES}
        began = time.monotonic()
        for number in range(1, kills + 1):
            # Half of them meet a daemon that is only just coming back, or one that another still waits for.
            if self.random.random() < 0.5:
                crew.await_steps(1)
            crew.pause(self.random.random())
            living = crew.until("somebody who lives", lambda: list(crew.daemons))
            least = min(times[role] for role in living)  # nobody is left out
            role = self.random.choice([role for role in living if times[role] == least])
            times[role] += 1
            crew.kill(role, again=0.3 * self.random.random())
            if number % 5 == 0:
                self.assert_sound(crew)
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [], "the kill of one is no reason for another one to end")
        print(f"long: {kills} kills ({times}) in {time.monotonic() - began:.0f} s, {last} steps, seed {case.WORDS.seed}")
        self.assert_undisturbed(crew, last)

    def test_a_fleet_whose_router_and_replicas_are_killed_too_leaves_the_same_ledger_and_answers_its_clients(self):
        crew = self.started(DOOR, roles=FLEET)
        rounds, began = (20 if case.WORDS.long else 2), time.monotonic()
        with Client(crew.run / "addresses/router_http-0") as client:
            for _ in range(rounds):
                for role in self.random.sample(FLEET, len(FLEET)):
                    if self.random.random() < 0.5:
                        crew.await_steps(1)
                    crew.pause(self.random.random())
                    crew.until(role, lambda: role in crew.daemons)
                    crew.kill(role, again=0.3 * self.random.random())
                self.assert_sound(crew)
                before = client.answers
                crew.until("an answer through the router", lambda: client.answers > before)
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [], "the kill of one is no reason for another one to end")
        self.assertEqual(client.broken, [], "an answer is whole, or it is none")
        self.assertGreater(client.refusals, 0, "the control: the router was away")
        print(f"long: {rounds} kills of each of {len(FLEET)} in {time.monotonic() - began:.0f} s, {last} steps, {client.answers} answers "
              f"through the router and {client.refusals} refusals, seed {case.WORDS.seed}")
        self.assert_undisturbed(crew, last)


if __name__ == "__main__":
    case.main()
