#!/usr/bin/env python3
"""The page of a run as a browser shows it: headless Chromium, over a small finished run made by make_run.

Usage: page_test.py PALIMPSEST_PAGE MAKE_RUN PALIMPSEST_ORCHESTRATOR, from the root of the repository. 77: there is no Chromium.
"""
import html
import http.client
import json
import math
import pathlib
import re
import shutil
import sqlite3
import struct
import subprocess
import sys
import tempfile
import time
import unittest
import zlib
from html.parser import HTMLParser

sys.path.insert(0, "tests/integration/http")
import tiny_model  # noqa: E402

PAGE = MAKE_RUN = ORCHESTRATOR = ""
BROWSER = shutil.which("chromium") or shutil.which("chromium-headless-shell")
LAYERS, HEADS, PROMPT = 2, 2, "^a7b6?go"
RESPONSE = '<script>window.bad=1</script> The page is\nscraped & written on again, "twice"; #a7b6$'
EVENTS = [(24, range(8, 20)), (44, range(8, 40))]
SIZE = len(PROMPT + RESPONSE)
SAMPLED = [p for p in range(len(PROMPT), SIZE) if not SIZE - 6 <= p < SIZE - 1]


def kept(event, layer, head, p):
    """As make_run.cc says it."""
    if event == 0:
        return (p + layer + head) % 3 == 0
    return kept(0, layer, head, p) and p % 4 == 0 if p < 20 else (p + 2 * layer + head) % 2 == 0


def small(x):
    """As dom.js writes a number."""
    power = math.floor(math.log10(abs(x))) if x else 0
    if -3 <= power < 5:
        return f"{float(f'{x:.3g}'):g}"
    return f"{float(f'{x / 10 ** power:.1f}'):g}e{power}"


class Dom(HTMLParser):
    """Elements with their attributes and all text below them, in the order of the page."""
    VOID = {"meta", "link", "input", "img", "br"}

    def __init__(self, text):
        super().__init__()
        self.all, self.open = [], []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        element = {"tag": tag, "text": "", **dict(attributes)}
        element["classes"] = (element.get("class") or "").split()
        self.all.append(element)
        if tag not in self.VOID:
            self.open.append(element)

    def handle_endtag(self, tag):
        if any(element["tag"] == tag for element in self.open):
            while self.open.pop()["tag"] != tag:
                pass

    def handle_data(self, data):
        for element in self.open:
            element["text"] += data

    def find(self, tag=None, kind=None):
        return [e for e in self.all if tag in (None, e["tag"]) and (kind is None or kind in e["classes"])]

    def fact(self, name):
        """The value beside a name of a list of facts."""
        names, values = self.find("dt"), self.find("dd")
        return values[[e["text"] for e in names].index(name)]["text"]


def pixels(png):
    """Rows of (r, g, b) of a picture of 8 bits a channel, as Chromium writes it."""
    data, at = b"", 8
    while at < len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        body = png[at + 8:at + 8 + length]
        if kind == b"IHDR":
            width, height, _, colours = struct.unpack(">IIBB", body[:10])
        elif kind == b"IDAT":
            data += body
        at += length + 12
    size = {2: 3, 6: 4}[colours]
    raw, before, rows = zlib.decompress(data), bytearray(width * size), []
    for y in range(height):
        begin = y * (width * size + 1)
        line = bytearray(raw[begin + 1:begin + 1 + width * size])
        for i in range(len(line)):
            left, up, corner = (line[i - size], before[i], before[i - size]) if i >= size else (0, before[i], 0)
            guess = left + up - corner
            nearest = min((left, up, corner), key=lambda x: abs(guess - x))
            line[i] = (line[i] + (0, left, up, (left + up) // 2, nearest)[raw[begin]]) & 255
        rows.append([tuple(line[i:i + 3]) for i in range(0, len(line), size)])
        before = line
    return rows


class PageTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.scratch = tempfile.TemporaryDirectory()
        cls.addClassCleanup(cls.scratch.cleanup)
        cls.folder = pathlib.Path(cls.scratch.name, "run")
        subprocess.run([MAKE_RUN, cls.folder], check=True, timeout=60)
        (cls.folder / "store").mkdir()
        tiny_model.write(cls.folder / "store/v00000009")
        cls.server = subprocess.Popen([PAGE, cls.folder], stdout=subprocess.PIPE, text=True)
        cls.addClassCleanup(cls.stop)
        cls.url = json.loads(cls.server.stdout.readline())["page"]
        cls.ledger = sqlite3.connect(f"file:{cls.folder}/ledger.sqlite?mode=ro", uri=True)
        cls.addClassCleanup(cls.ledger.close)

    @classmethod
    def stop(cls):
        cls.server.terminate()
        cls.server.wait(timeout=60)
        cls.server.stdout.close()

    def get(self, path, method="GET"):
        connection = http.client.HTTPConnection(self.url.split("/")[2], timeout=60)
        connection.request(method, path)
        answer = connection.getresponse()
        body = answer.read()
        connection.close()
        return answer, body

    def api(self, path, status=200):
        answer, body = self.get("/api/" + path)
        self.assertEqual(answer.status, status, body)
        return json.loads(body)

    def browse(self, place, *options):
        """(what the page has become, lines of its console)"""
        command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--enable-logging=stderr",
                   f"--user-data-dir={self.scratch.name}/browser", "--virtual-time-budget=10000", *options, self.url + place]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout, [line for line in done.stderr.splitlines() if "CONSOLE" in line]

    def dom(self, place):
        text, console = self.browse(place, "--dump-dom")
        self.assertEqual(console, [])
        return Dom(text)

    def test_the_run_with_its_numbers_curves_and_stages(self):
        dom = self.dom("#/")
        reward, worst = self.ledger.execute("SELECT reward, mismatch_max_abs FROM steps ORDER BY step DESC").fetchone()
        self.assertEqual(dom.fact("reward"), f"{reward:.3f}")
        self.assertEqual(dom.fact("held-out"), "0.750")
        self.assertEqual(dom.fact("tokens/s"), "200")
        self.assertEqual(dom.fact("worst mismatch"), f"{worst:.0e}".replace("e-0", "e-"))
        self.assertEqual(dom.fact("weights"), "v9")
        self.assertIn("step 6", dom.find(kind="where")[0]["text"])
        self.assertEqual(dom.find(kind="phase")[0]["text"], "stopped")
        self.assertEqual([e["text"].split()[0] for e in dom.find("li")], ["warm", "rl"])
        titles = [e["text"].split(" by ")[0] for e in dom.find("figcaption")]
        self.assertEqual(titles[0], "Reward")
        self.assertEqual(len(dom.find("svg")), len(titles))
        batch, heldout, greedy = dom.find("polyline")[:3]
        self.assertEqual([len(line["points"].split()) for line in (batch, heldout, greedy)], [6, 2, 2])
        heights = [float(point.split(",")[1]) for point in batch["points"].split()]
        self.assertEqual(heights, sorted(heights, reverse=True))  # the reward rises
        also = [e["text"] for e in dom.find("td")]
        self.assertEqual(also, ["0.800", "0.900", "4"])

    def test_the_rollouts_as_a_list(self):
        rows = self.dom("#/rollouts").find("a", "row")
        self.assertEqual(len(rows), 24)
        self.assertIn("g000011.a0.1.1", rows[0]["text"])
        self.assertIn(RESPONSE.replace("\n", " ⏎ "), rows[0]["text"])
        best = self.dom("#/rollouts?order=best+first&step=5").find("a", "row")
        self.assertEqual([r["text"][:4] for r in best], ["0.31", "0.30", "0.21", "0.20"])

    def test_a_rollout_in_the_ink_that_is_left(self):
        for chosen, done in (("", 2), ("?event=0", 0), ("?event=1", 1), ("?event=2", 2)):
            tokens = self.dom("#/rollout/g000004.a0.1.1" + chosen).find("span", "t")
            tokens = [t for t in tokens if "data-p" in t]
            self.assertEqual("".join(t["text"] for t in tokens), (PROMPT + RESPONSE).replace("\n", "⏎\n"))
            for p, token in enumerate(tokens):
                self.assertEqual(token["data-p"], str(p))
                last = next((e for e in reversed(range(done)) if p in EVENTS[e][1]), None)
                self.assertEqual("scraped" in token["classes"], last is not None, p)
                written = p < (EVENTS[max(0, done - 1)][0] if chosen else len(tokens))
                self.assertEqual("unwritten" in token["classes"], not written, p)
                heads = sum(kept(last, l, h, p) for l in range(LAYERS) for h in range(HEADS)) if last is not None else 4
                ink = {0: "k0", 1: "k1", 2: "k2", 3: "k3", 4: "k4"}[heads]
                self.assertTrue(not written or ink in token["classes"], (chosen, p, heads, token["classes"]))
            origins = ["prompt"] * 8 + ["sampled"] * (len(tokens) - 14) + ["injected"] * 5 + ["sampled"]
            self.assertEqual([t["classes"][1] for t in tokens], origins)

    def test_an_event_and_a_token_in_words(self):
        dom = self.dom("#/rollout/g000004.a0.1.1?event=2&token=21")
        self.assertEqual(dom.fact("before token"), "44")
        self.assertEqual(dom.fact("window"), "[8, 40)")
        self.assertEqual(dom.fact("listened to"), "[34, 44)")
        held = [sum(kept(0, l, h, p) for p in range(8, 20)) + 20 for l in range(LAYERS) for h in range(HEADS)]
        counts = [sum(kept(1, l, h, p) for p in range(8, 40)) for l in range(LAYERS) for h in range(HEADS)]
        self.assertEqual(dom.fact("kept a head").removeprefix(f"{min(counts)} to "), f"{max(counts)} of {max(held)} slots")
        self.assertEqual(dom.fact("mass error"), "0.02")
        self.assertEqual(dom.fact("took"), "2.5 ms")
        self.assertEqual(dom.fact("sampled at"), f"{-0.125 * 21:.4f} nats (7.2 %)")
        self.assertEqual(dom.fact("replayed"), "-2.6250 nats")
        self.assertEqual(dom.fact("mismatch"), "+1.9e-6 nats")
        self.assertIn("v5", dom.fact("weights"))
        window = [int(e["data-p"]) for e in dom.find("span", "window")]
        self.assertEqual(window, list(EVENTS[1][1]))
        self.assertEqual([int(e["data-p"]) for e in dom.find("span", "heard") if "data-p" in e], list(range(34, 44)))
        self.assertEqual([e["data-p"] for e in dom.find("span", "here")], ["21"])
        fates = dom.find("p", "fate")
        self.assertEqual([e["text"].split("L0")[0] for e in fates], ["event 2"])
        dots = ["on" in e["classes"] for e in dom.find("i")]
        self.assertEqual(dots, [kept(1, l, h, 21) for l in range(LAYERS) for h in range(HEADS)])
        self.assertEqual(len(dom.find("canvas")), 1)

    def test_the_strip_shows_what_each_head_of_each_layer_kept(self):
        place, options = "#/rollout/g000004.a0.1.1?event=2", ("--window-size=1280,1000", "--force-device-scale-factor=1")
        canvas = Dom(self.browse(place, "--dump-dom", *options)[0]).find("canvas")[0]
        window = EVENTS[1][1]
        cell = (int(canvas["width"]) + 0.5 - 58) / len(window)  # heads.js: a label, then the window
        picture = pathlib.Path(self.scratch.name, "strip.png")
        self.browse(place, f"--screenshot={picture}", *options)
        rows = pixels(picture.read_bytes())
        middles = [int((i + 0.4) * cell) for i in range(len(window))]

        def shown(fates):
            """The pixel rows in which each fate has a colour of its own over the whole window."""
            found = []
            for y in range(0, len(rows), 2):
                for x in range(len(rows[y]) - middles[-1]):
                    colours = {}
                    if all(colours.setdefault(fate, rows[y][x + m]) == rows[y][x + m] for fate, m in zip(fates, middles)) \
                            and len(set(colours.values())) == len(set(fates)):
                        found.append(y)
                        break
            return found

        def fates(layer, head):
            return [2 if kept(1, layer, head, p) else 1 if p >= 20 or kept(0, layer, head, p) else 0 for p in window]

        tops = [shown(fates(l, h)) for l in range(LAYERS) for h in range(HEADS)]
        self.assertTrue(all(tops), tops)
        middle = [sum(ys) / len(ys) for ys in tops]
        self.assertEqual(middle, sorted(middle), "layer by layer, head by head")
        wrong = fates(0, 0)
        wrong[3] = (wrong[3] + 1) % 3
        self.assertEqual(shown(wrong), [], "the control: one cell otherwise is nowhere")

    def replayed(self, rollout):
        """As the ledger keeps it, by position; None: it does not."""
        row = self.ledger.execute("SELECT logprobs FROM replayed WHERE rollout = ?", (rollout,)).fetchone()
        return row and dict(zip(SAMPLED, struct.unpack(f"<{len(SAMPLED)}f", row[0]), strict=True))

    def test_the_mismatch_of_each_token_is_that_of_the_ledger(self):
        rollout = "g000004.a0.1.1"
        replayed, sampled = self.replayed(rollout), self.api(f"rollouts/{rollout}")["logprobs"]
        gaps = {p: replayed[p] - sampled[p] for p in SAMPLED}
        self.assertEqual(len(set(gaps.values())), 5)
        for p in (3, 22, 23, 24, 25, SIZE - 2):
            dom = self.dom(f"#/rollout/{rollout}?ink=mismatch&token={p}")
            gap = gaps.get(p)
            self.assertEqual(dom.fact("replayed"), "–" if gap is None else f"{replayed[p]:.4f} nats")
            self.assertEqual(dom.fact("mismatch"), "–" if gap is None else f"{'+' if gap > 0 else ''}{small(gap)} nats")
        self.assertEqual(dom.fact("worst mismatch"), small(max(map(abs, gaps.values()))))
        for token in (t for t in dom.find("span", "t") if "data-p" in t):
            gap = gaps.get(int(token["data-p"]), 0)
            shade = sum(abs(gap) > bound for bound in (1e-6, 1e-5, 1e-3, 1e-1))
            wanted = {"up" if gap > 0 else "down", f"m{shade}"} if shade else set()
            self.assertEqual({c for c in token["classes"] if c in ("up", "down") or re.fullmatch("[mkxd][0-9]|scraped", c)}, wanted)
        self.assertIn("replayed as likelier, nats> 1e-6> 1e-5> 0.001> 0.1as less likely", dom.find("p", "key")[0]["text"])
        self.assertEqual([e["value"] for e in dom.find("input")], ["memory", "surprise", "mismatch"])

    def test_a_rollout_of_which_nothing_replayed_is_kept_says_so(self):
        """The control: its step was trained and its batch has a mismatch, but it has no numbers."""
        rollout = "g000011.a0.1.1"
        self.assertIsNone(self.replayed(rollout))
        self.assertIsNone(self.api(f"rollouts/{rollout}")["replayed"])
        dom = self.dom(f"#/rollout/{rollout}?ink=mismatch&token=22")
        self.assertEqual(dom.fact("replayed"), "not kept; its batch is within 9e-6 nats")
        self.assertEqual(dom.fact("mismatch"), "–")
        self.assertEqual(dom.fact("worst mismatch"), "not kept")
        self.assertEqual(dom.find("span", "up") + dom.find("span", "down"), [])
        self.assertEqual(dom.find("p", "key")[0]["text"], "No mismatch to show: what the trainer replayed of this rollout is not kept.")

    def test_what_rollouts_say_is_text_and_nothing_else(self):
        for place in ("#/rollouts", "#/rollout/g000000.a0.0.1"):
            text, _ = self.browse(place, "--dump-dom")
            dom = Dom(text)
            self.assertEqual([s["src"] for s in dom.find("script")], ["/main.js"])
            self.assertEqual(dom.find("img"), [])
            self.assertIn(html.escape("<img src=x onerror=window.bad=1> answer", quote=False), text)
        policy = self.get("/")[0].getheader("Content-Security-Policy")
        self.assertTrue(policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';"), policy)

    def test_an_error_is_shown_and_reaches_the_console(self):
        """Also the control of the other tests: a console with an error is not empty."""
        text, console = self.browse("#/rollout/nobody", "--dump-dom")
        alerts = [e["text"] for e in Dom(text).find(kind="error")]
        self.assertEqual(alerts, ["rollout_id=nobody: no such rollout"])
        self.assertIn("no such rollout", "".join(console))

    def test_it_can_be_photographed_wide_narrow_and_dark(self):
        sizes = set()
        for i, options in enumerate((["--window-size=1280,1500"], ["--window-size=500,1500"],
                                     ["--window-size=1280,1500", "--blink-settings=preferredColorScheme=0"])):
            picture = pathlib.Path(self.scratch.name, f"{i}.png")
            self.browse("#/rollout/g000004.a0.1.1?event=2&token=21", f"--screenshot={picture}", *options)
            data = picture.read_bytes()
            self.assertEqual(data[:8], b"\x89PNG\r\n\x1a\n")
            self.assertEqual(int.from_bytes(data[16:20], "big"), int(options[0].split("=")[1].split(",")[0]))
            self.assertGreater(len(data), 20000)  # not an empty sheet
            sizes.add(len(data))
        self.assertEqual(len(sizes), 3)

    def test_pages_of_rollouts_follow_one_another_and_end(self):
        seen, before = [], ""
        while True:
            page = self.api(f"rollouts?limit=7{before}")
            seen += [row["id"] for row in page["rows"]]
            if not page["next"]:
                break
            before = f"&before={page['next']}"
        self.assertEqual(seen, [row[0] for row in self.ledger.execute("SELECT id FROM rollouts ORDER BY place DESC")])

    def test_questions_that_make_no_sense_are_refused_by_name(self):
        for path, said in (("rollouts?limit=0", "limit='0' is no whole number of [1, 200]"),
                           ("rollouts?limit=201", "limit='201'"), ("rollouts?limit=1e9", "limit='1e9'"),
                           ("rollouts?step=-1", "step='-1'"), ("rollouts?before=99999999999999999999", "before="),
                           ("rollouts?step=1%20OR%201%3D1", "step='1 OR 1=1'"), ("rollouts?colour=red", "colour: there is no"),
                           ("curves?points=1", "points='1'"), ("progress?x=1", "x: there is no"),
                           ("rollouts/g000000.a0.0.1?limit=1", "limit: there is no")):
            self.assertIn(said, self.api(path, 400)["error"])
        for path in ("nothing", "rollouts/", "rollouts/x%00y", "rollouts/../../ledger.sqlite", "rollouts/%27%20OR%201",
                     "rollouts/g000000.a0.0.1/events/2", "rollouts/g000000.a0.0.1/events/-1",
                     "rollouts/g000000.a0.0.1/events/", "rollouts/g000000.a0.0.1/events/0/events/0"):
            self.assertTrue(self.api(path, 404)["error"])
        self.assertEqual(self.get("/../ledger.sqlite")[0].status, 404)
        for size in (8000, 100000):
            self.assertGreaterEqual(self.get("/" + "a" * size)[0].status, 400)
        for method in ("POST", "PUT", "DELETE"):
            self.assertGreaterEqual(self.get("/api/progress", method)[0].status, 400)
        self.assertEqual(self.api("progress")["run"], "small")  # it is still there

    def test_a_folder_without_a_ledger_and_a_host_that_others_reach_are_refused(self):
        for words, said in (([self.scratch.name], "there is no ledger"), ([self.folder, "0.0.0.0:0"], "0.0.0.0"), ([], "usage")):
            done = subprocess.run([PAGE, *words], capture_output=True, text=True, timeout=60)
            self.assertNotEqual(done.returncode, 0)
            self.assertIn(said, done.stderr)


class LiveTest(unittest.TestCase):
    def test_the_orchestrator_serves_the_page_of_its_own_run(self):
        """Alone: it waits for peers that never come, and says so."""
        scratch = tempfile.TemporaryDirectory()
        self.addCleanup(scratch.cleanup)
        folder = pathlib.Path(scratch.name, "run")
        orchestrator = subprocess.Popen([ORCHESTRATOR, "--config", "tests/integration/run/run.yaml", "--set", f"run.folder={folder}"],
                                        stderr=subprocess.DEVNULL)
        self.addCleanup(orchestrator.wait)
        self.addCleanup(orchestrator.kill)
        address = folder / "addresses/page-0"
        for _ in range(2000):
            if address.exists():
                break
            self.assertIsNone(orchestrator.poll())
            time.sleep(0.1)
        place = address.read_text().split()[0]

        def get(path):
            connection = http.client.HTTPConnection(place, timeout=60)
            connection.request("GET", path)
            answer = connection.getresponse()
            body = answer.read().decode()
            connection.close()
            return answer.status, body

        progress = json.loads(get("/api/progress")[1])
        self.assertEqual((progress["run"], progress["live"], progress["phase"]), ("short", True, "starting"))
        fleet = json.loads(get("/api/fleet")[1])["peers"]
        self.assertEqual({peer["role"] for peer in fleet}, {"env", "inference", "trainer"})
        self.assertFalse(any(peer["ready"] for peer in fleet))
        self.assertEqual(json.loads(get("/api/rollouts")[1])["rows"], [])
        self.assertIn("<title>Palimpsest</title>", get("/")[1])
        with tempfile.TemporaryDirectory() as profile:
            shown = Dom(subprocess.run([BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={profile}", "--virtual-time-budget=5000",
                                        "--dump-dom", f"http://{place}/#/"], capture_output=True, text=True, timeout=120).stdout)
        peers = [e for e in shown.find("li") if {"ready", "away"} & set(e["classes"])]
        self.assertEqual({re.match(r"(\w+)-0 away", e["text"])[1] for e in peers}, {"env", "inference", "trainer"})
        self.assertEqual(get("/healthz"), (200, "ok\n"))
        self.assertIn("palimpsest_build_info", get("/metrics")[1])
        orchestrator.terminate()
        self.assertEqual(orchestrator.wait(timeout=60), 0)
        self.assertFalse(address.exists())


if __name__ == "__main__":
    PAGE, MAKE_RUN, ORCHESTRATOR = sys.argv[1:4]
    if BROWSER is None:
        print("page_test: no chromium; deploy/setup.sh --browser installs it", file=sys.stderr)
        sys.exit(77)
    unittest.main(argv=sys.argv[:1] + sys.argv[4:])
