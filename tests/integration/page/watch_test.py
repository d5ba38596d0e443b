#!/usr/bin/env python3
"""`palimpsest watch` over a small finished run made by make_run: on a pseudo terminal, and without one.

Usage: watch_test.py PALIMPSEST PALIMPSEST_PAGE MAKE_RUN. Needs the standard library only.
"""
import contextlib
import fcntl
import http.server
import json
import os
import pathlib
import pty
import re
import select
import shutil
import signal
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time
import unittest
import urllib.request

BINARY = PAGE = MAKE_RUN = ""


class Watch(unittest.TestCase):
    def setUp(self):
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        self.folder = pathlib.Path(scratch.name, "run")
        subprocess.run([MAKE_RUN, self.folder], check=True, timeout=60)

    def watch(self, *words):
        return subprocess.run([BINARY, "watch", *map(str, words)], capture_output=True, text=True, timeout=100)

    def serve(self):
        server = subprocess.Popen([PAGE, self.folder], stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait, 60)
        self.addCleanup(server.terminate)
        return server, json.loads(server.stdout.readline())["page"]

    def test_a_run_that_is_over_is_told_from_its_ledger(self):
        done = self.watch(self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        lines = done.stderr.splitlines()
        self.assertRegex(lines[0], r"^small   stopped   rl   elapsed 0:01:40")
        self.assertIn("reward          0.950  ▁▂▄▅▇█", done.stderr)
        self.assertIn("held-out    also.none 0.800   first 0.250   last 0.750", done.stderr)
        self.assertIn("g000011.a0.1.1  2 events  <script>window.bad=1</script> The page is scraped", done.stderr)
        self.assertNotIn("\x1b", done.stderr)
        told = json.loads(done.stdout)
        self.assertEqual(told["progress"]["policy_version"], 9)
        self.assertRegex(told["page"], r"^http://127\.0\.0\.1:\d+/$")

    def test_an_address_in_place_of_a_folder(self):
        _, url = self.serve()
        done = self.watch(url.split("/")[2], "--once")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("small   stopped", done.stderr)

    def test_on_a_terminal_it_is_drawn_in_place_and_ends_with_ctrl_c(self):
        # Alive, as far as the ledger tells, for longer than this takes.
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.sqlite")) as ledger, ledger:
            ledger.execute("UPDATE attempts SET seen_ms = ?", (int((time.time() + 1000) * 1000),))
        master, slave = pty.openpty()
        self.addCleanup(os.close, master)
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 40, 60, 0, 0))
        watch = subprocess.Popen([BINARY, "watch", self.folder], stdin=slave, stdout=subprocess.PIPE, stderr=slave)
        self.addCleanup(watch.stdout.close)
        self.addCleanup(watch.kill)
        os.close(slave)
        seen = b""
        deadline = time.time() + 240
        while seen.count(b"small") < 3 and time.time() < deadline:
            if select.select([master], [], [], 0.5)[0]:
                seen += os.read(master, 65536)
        self.assertGreaterEqual(seen.count(b"small"), 3, seen)
        watch.send_signal(signal.SIGINT)
        self.assertEqual(watch.wait(timeout=60), 0)
        self.assertEqual(json.loads(watch.stdout.read())["progress"]["phase"], "running")
        pictures = re.split(rb"\x1b\[(\d+)A\x1b\[J", seen)
        lines = pictures[0].decode().splitlines()
        self.assertEqual(int(pictures[1]), len(lines))  # it goes up over exactly what it had drawn
        self.assertLessEqual(max(map(len, lines)), 60)

    def test_the_page_of_a_run_that_is_over_is_served(self):
        server = subprocess.Popen([BINARY, "watch", self.folder, "--web", "127.0.0.1:0"], stdout=subprocess.PIPE, text=True)
        self.addCleanup(server.stdout.close)
        self.addCleanup(server.wait, 60)
        self.addCleanup(server.terminate)
        url = json.loads(server.stdout.readline())["page"]
        with urllib.request.urlopen(url + "api/progress", timeout=60) as answer:
            self.assertEqual(json.load(answer)["run"], "small")
        with urllib.request.urlopen(url, timeout=60) as answer:
            self.assertIn("<title>Palimpsest</title>", answer.read().decode())

    def test_a_folder_whose_name_is_no_text_is_watched(self):
        odd = os.fsencode(self.folder.parent) + b"/\xff"
        self.folder.rename(os.fsdecode(odd))
        done = subprocess.run([BINARY, "watch", odd, "--once"], capture_output=True, timeout=100)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(json.loads(done.stdout)["progress"]["run"], "small")

    def test_the_page_of_no_folder_is_refused(self):
        done = subprocess.run([PAGE, ""], capture_output=True, text=True, timeout=60)
        self.assertEqual(done.returncode, 2)
        self.assertIn('RUN="" is empty', done.stderr)

    def serve_at_the_address_of(self, folder, answer):
        """What a killed daemon left: an address that somebody else has now. `answer`: (status, body), or None for silence."""
        class Other(http.server.BaseHTTPRequestHandler):
            def do_GET(self):
                if answer is None:
                    return time.sleep(60)
                self.send_response(answer[0])
                self.end_headers()
                self.wfile.write(answer[1])

            def log_message(self, *_):
                pass
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Other)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        server.daemon_threads, server.block_on_close = True, False
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.stale_address(folder, f"127.0.0.1:{server.server_port}")

    def stale_address(self, folder, host_port):
        (folder / "addresses").mkdir(exist_ok=True)
        (folder / "addresses/page-0").write_text(f"{host_port}\npid 1\n")

    def test_whoever_else_answers_at_a_stale_address_the_ledger_tells(self):
        other = {"run": "small", "phase": "rl", "stage": "rl", "step": 99, "folder": "/another/run"}
        for answer in ((200, json.dumps(other).encode()), (200, b'{"run": "small"}'), (404, b"no such page"), (200, b"<html>"), None):
            self.serve_at_the_address_of(self.folder, answer)
            began = time.monotonic()
            done = self.watch(self.folder, "--once")
            self.assertEqual(done.returncode, 0, (answer, done.stderr))
            self.assertRegex(done.stderr.splitlines()[0], r"^small   stopped   rl   elapsed 0:01:40")
            self.assertLess(time.monotonic() - began, 50)

    def test_the_page_of_the_run_itself_is_believed_and_that_of_a_copy_is_not(self):
        _, url = self.serve()
        page = url.split("/")[2]
        self.stale_address(self.folder, page)
        self.assertEqual(json.loads(self.watch(self.folder, "--once").stdout)["page"], url)
        copy = self.folder.with_name("copy")
        shutil.copytree(self.folder, copy)
        done = self.watch(copy, "--once")
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertNotEqual(json.loads(done.stdout)["page"], url)

    def test_a_ledger_that_is_none_is_told_as_fsck_does(self):
        with contextlib.closing(sqlite3.connect(self.folder / "ledger.sqlite")) as ledger:
            ledger.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        whole = (self.folder / "ledger.sqlite").read_bytes()
        for name in ("ledger.sqlite-wal", "ledger.sqlite-shm"):
            (self.folder / name).unlink(missing_ok=True)
        for content in (b"", bytes(range(1, 256)) * 64, whole[:len(whole) // 4]):
            (self.folder / "ledger.sqlite").write_bytes(content)
            done = self.watch(self.folder, "--once")
            self.assertEqual(done.returncode, 1, done.stderr)
            self.assertRegex(done.stderr, "DATA_LOSS: ledger: ")
            self.assertNotIn("NOT_FOUND", done.stderr)
            self.assertNotIn("{", done.stderr)
            fsck = subprocess.run([BINARY, "fsck", self.folder], capture_output=True, text=True, timeout=100)
            self.assertEqual((fsck.returncode, "FAIL  ledger_file" in fsck.stderr), (1, True), fsck.stderr)

    def test_what_makes_no_sense_is_refused(self):
        for words, code, said in ((["/nowhere/at/all"], 2, "HOST:PORT"), (["127.0.0.1:1"], 1, "does not answer"),
                                  ([self.folder.parent], 1, "there is no ledger"), (["127.0.0.1:1", "--web", "127.0.0.1:0"], 2, "--web"),
                                  ([self.folder, "--once", "--tls", "/nope"], 2, "--tls /nope"), ([""], 2, "RUN="),
                                  ([self.folder, "--web", "0.0.0.0:0"], 2, "0.0.0.0"), ([self.folder, "--once", "--web", "127.0.0.1:0"], 2, "--web")):
            done = self.watch(*words)
            self.assertEqual(done.returncode, code, (words, done.stderr))
            self.assertIn(said, done.stderr)


if __name__ == "__main__":
    BINARY, PAGE, MAKE_RUN = sys.argv[1:4]
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
