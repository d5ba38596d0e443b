#!/usr/bin/env python3
"""A server that others fill, readers that do not read, and half an hour of it. Usage: see case.py."""
import contextlib
import json
import pathlib
import random
import re
import socket
import statistics
import sys
import threading
import time
import urllib.request

sys.dont_write_bytecode = True
import case  # noqa: E402
from slope import slope  # noqa: E402

DOOR = ("inference.http.listen=127.0.0.1:0", "inference.max_queued=16", "inference.reader_queue=32",
        "inference.http.connections=64", "orchestrator.rl.steps=1000000")
ASK = {"model": "faults", "prompt": "abcdefgh:", "max_tokens": 200, "stream": True, "n": 4, "ignore_eos": True, "logprobs": 5}
# What the last quarter of the soak may hold beyond the first, at most.
GROWTH = {"descriptors": 8, "threads": 4}
# MiB that resident memory may grow by in half an hour, by the upper end of the 95 % interval of the second half's slope.
MEMORY = 12


class Clients:
    """Of the HTTP door, until the end of the block. `reading` ones take answers or refusals as they come and ask again; the
    others read nothing, through windows so small that the server soon cannot write."""

    def __init__(self, address, reading, silent):
        host, port = address.rsplit(":", 1)
        self.door = (host, int(port))
        self.said = {}  # status code: how often
        self.over = threading.Event()
        self.threads = [threading.Thread(target=self.ask, args=(reads,)) for reads in [True] * reading + [False] * silent]

    def __enter__(self):
        for thread in self.threads:
            thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def ask(self, reads):
        while not self.over.wait(0.05):
            with contextlib.suppress(OSError), socket.socket() as line:
                if not reads:
                    line.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
                    line.setsockopt(socket.IPPROTO_TCP, socket.TCP_MAXSEG, 536)
                line.settimeout(30)
                line.connect(self.door)
                body = json.dumps(ASK).encode()
                line.sendall(b"POST /v1/completions HTTP/1.1\r\nHost: here\r\nConnection: close\r\nContent-Type: application/json\r\n"
                             b"Content-Length: %d\r\n\r\n" % len(body) + body)
                if not reads:
                    self.over.wait(10)
                    continue
                head = line.recv(4096)
                code = int(head.split(b" ", 2)[1]) if head.startswith(b"HTTP/1.1 ") else 0
                self.said[code] = self.said.get(code, 0) + 1
                while line.recv(65536):
                    pass


def held_by(pid):
    """What a process holds now."""
    proc = pathlib.Path(f"/proc/{pid}")
    pages = int((proc / "statm").read_text().split()[1])
    return {"bytes": pages * 4096, "descriptors": len(list((proc / "fd").iterdir())), "threads": len(list((proc / "task").iterdir()))}


def kept_by_orchestrator(step):
    """Bytes that are no leak, after so many steps: each word that its tokenizer has met, as the two prompts of a step are, up to
    16,384 of them (64 in the heap, and a slot of a table that doubles when it is 7/8 full), and the step of each version. As
    heaptrack told after 2,600 steps; the rest was SQLite's cache of 2 MB, which is full by then."""
    words, slots = min(1 << 14, 2 * step), 1
    while 8 * words > 7 * slots:
        slots *= 2
    return 64 * words + 57 * slots + 48 * step


class Load(case.Case):
    def with_a_door(self, *sets):
        crew = self.crew(*DOOR, *sets)
        crew.start()
        crew.await_steps(2)
        return crew, (crew.run / "addresses/http-0").read_text().split()[0]

    def counter(self, crew, name):
        port = re.findall(r'"metrics_port":"?(\d+)', crew.log("inference"))[-1]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as page:
            return sum(float(line.split()[-1]) for line in page.read().decode().splitlines() if line.startswith(name))

    def test_a_full_server_and_slow_readers_cost_the_run_time_and_nothing_else(self):
        crew, door = self.with_a_door()
        with Clients(door, reading=16, silent=12) as clients:
            crew.await_steps(20 if case.WORDS.long else 4, 240)
            self.assert_sound(crew)
            crew.until("an end for those who do not read", lambda: self.counter(crew, "palimpsest_slow_readers_total") > 0)
            crew.until("a refusal", lambda: clients.said.get(429, 0) > 0)
        crew.await_steps(2)
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        print(f"long: {clients.said} (answers by status), {last} steps, seed {case.WORDS.seed}")
        self.assert_undisturbed(crew, last)

    def test_a_leak_is_told_from_a_memory_that_jumps(self):
        noise = random.Random(1)
        minutes = range(23)
        flat = [200 + noise.choice([0, 0, 0, 3]) + noise.random() for _ in minutes]
        low, _, high = (30 * end for end in slope(minutes, flat))
        self.assertLess(low, 0)
        self.assertLess(high, MEMORY)
        low, middle, high = (30 * end for end in slope(minutes, [mib + 0.6 * minute for minute, mib in zip(minutes, flat)]))
        self.assertTrue(MEMORY < low < 18 < high, (low, middle, high))

    def test_half_an_hour_of_load_leaves_memory_descriptors_and_threads_flat(self):
        if not case.WORDS.long:
            self.skipTest("half an hour: in tests/run.sh --long; the engine alone is soaked in the gate")
        minutes = case.WORDS.minutes
        # What fills up to a bound is full long before the first half ends: pages of KV become resident when they are first used,
        # and what a repeated request would be answered with is kept.
        crew, door = self.with_a_door("inference.kv_pool_bytes=8MiB", "inference.remember_bytes=2MiB")
        pids = {role: daemon.pid for role, daemon in crew.daemons.items()}
        most = [{role: dict.fromkeys(GROWTH, 0) for role in pids} for _ in range(4)]  # of each quarter
        resident = {role: [[] for _ in range(minutes)] for role in pids}              # bytes, by minute
        begin = time.monotonic()
        with Clients(door, reading=6, silent=2):
            while (share := (time.monotonic() - begin) / (60 * minutes)) < 1:
                crew.pause(2)
                known = {"orchestrator": kept_by_orchestrator(crew.step())}
                for role, pid in pids.items():
                    held = held_by(pid)
                    held["bytes"] -= known.get(role, 0)
                    resident[role][int(share * minutes)].append(held.pop("bytes"))
                    quarter = most[min(3, int(4 * share))][role]
                    for what, amount in held.items():
                        quarter[what] = max(quarter[what], amount)
        last = crew.finish()
        self.assert_sound(crew)
        self.assertEqual(crew.ends, [])
        summary, growth = {}, {}
        for role in pids:
            mib = [statistics.median(minute) / (1 << 20) for minute in resident[role]]
            half = minutes // 2  # by then caches and arenas are full
            growth[role] = tuple(30 * end for end in slope(range(half, minutes), mib[half:]))
            low, middle, high = growth[role]
            summary[role] = (f"{mib[0]:.1f}, {mib[half]:.1f} and {mib[-1]:.1f} MiB in the first minute, half-way and in the last one, "
                             f"{middle:+.1f} [{low:+.1f}, {high:+.1f}] MiB in half an hour; "
                             + " and ".join(f"{q[role]['descriptors']} fds, {q[role]['threads']} threads" for q in (most[0], most[3])))
        print(f"long: {minutes} minutes, {last} steps: {summary}", flush=True)
        for role in pids:
            self.assertLess(growth[role][2], MEMORY, f"{role}: {summary[role]}")
            for what, allowed in GROWTH.items():
                self.assertLessEqual(most[3][role][what], most[0][role][what] + allowed, f"{what} of {role}: {summary[role]}")


if __name__ == "__main__":
    case.main()
