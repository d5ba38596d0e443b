#!/usr/bin/env python3
"""A whole run whose daemons listen on all interfaces under mutual TLS, and what a stranger gets of it.

Usage: tls_run_test.py PALIMPSEST GENERATE_EXAMPLE, from the root of the repository. Needs the standard library only.
"""
import json
import pathlib
import re
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.error
import urllib.request

BINARY = EXAMPLE = ""
STEPS = 8
ROLES = ("trainer", "inference", "env", "orchestrator")


class TlsRun(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder = pathlib.Path(folder.name, "run")
        self.messages = pathlib.Path(folder.name, "stderr.txt")
        self.tls = self.run_folder / "tls"
        self.make_certs()

    def make_certs(self, *words):
        subprocess.run(["deploy/tls/make-certs.sh", self.run_folder, *words], check=True, capture_output=True, timeout=60)

    def launch(self, *sets):
        command = [BINARY, "launch", "--config", "tests/integration/run/run.yaml"]
        for setting in (f"run.folder={self.run_folder}", f"tls.folder={self.tls}", "tls.reload=1s",
                        "inference.http.listen=0.0.0.0:0",
                        *(f"{role}.{key}" for role in ROLES
                          for key in ("listen=0.0.0.0:0", "metrics=0.0.0.0:0", "advertise=127.0.0.1")), *sets):
            command += ["--set", setting]
        with open(self.messages, "wb") as stderr:
            launched = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=stderr)
        self.addCleanup(lambda: (launched.kill(), launched.communicate()))
        return launched

    def await_step(self, launched, step, seconds=180):
        """Messages come once a second at most: not every step is seen."""
        for _ in range(seconds * 20):
            seen = re.findall(r"rl (\d+)/", self.messages.read_text())
            self.step = int(seen[-1]) if seen else 0
            if self.step >= step:
                return
            self.assertIsNone(launched.poll(), self.messages.read_text())
            time.sleep(0.05)
        self.fail(f"step {step} never came: {self.messages.read_text()}")

    def address(self, name):
        return (self.run_folder / "addresses" / name).read_text().splitlines()[0]

    def metrics_port(self, role):
        for line in (self.run_folder / f"logs/latest/{role}-0.log").read_text().splitlines():
            if "metrics_port" in line:
                return json.loads(line)["metrics_port"]
        self.fail(f"{role} has not said where its metrics are")

    def get(self, url, role):
        """Status and body of a page as somebody with the certificate of `role`; the server's is checked by its host."""
        context = ssl.create_default_context(cafile=self.tls / "ca.pem")
        if role:
            context.load_cert_chain(self.tls / f"{role}.pem")
        try:
            with urllib.request.urlopen(url, context=context, timeout=20) as answer:
                return answer.status, answer.read().decode()
        except urllib.error.HTTPError as refused:
            return refused.code, refused.read().decode()

    def certificate_at(self, address):
        """What who calls there is shown."""
        context = ssl.create_default_context(cafile=self.tls / "ca.pem")
        context.load_cert_chain(self.tls / "operator.pem")
        context.set_alpn_protocols(["h2", "http/1.1"])
        host, port = address.rsplit(":", 1)
        with socket.create_connection((host, int(port)), timeout=20) as line, context.wrap_socket(line, server_hostname=host) as secured:
            return ssl.DER_cert_to_PEM_cert(secured.getpeercert(binary_form=True))

    def assert_every_door_shows_its_newest_certificate(self):
        for role in ROLES:
            file = (self.tls / f"{role}.pem").read_text()
            newest = file[file.index("-----BEGIN CERTIFICATE-----"):].split("-----END CERTIFICATE-----")[0] + "-----END CERTIFICATE-----\n"
            doors = [self.address(f"{role}-0"), f"127.0.0.1:{self.metrics_port(role)}"]
            doors += {"inference": [self.address("http-0")], "orchestrator": [self.address("page-0")]}.get(role, [])
            for door in doors:
                self.assertEqual(self.certificate_at(door), newest, f"{role} at {door}")

    def tokenize(self, *words):
        return subprocess.run([BINARY, "tokenize", "--server", self.address("inference-0"), *words], input="^Fa7",
                              capture_output=True, text=True, timeout=90)

    def assert_doors_open_for_the_right_ones_only(self):
        for role in ROLES:
            page = f"https://127.0.0.1:{self.metrics_port(role)}/metrics"
            status, text = self.get(page, "metrics")
            self.assertEqual(status, 200)
            self.assertIn(f'palimpsest_build_info{{role="{role}"', text)
            status, text = self.get(page, "env")
            self.assertEqual((status, text), (403, "the role env may not call /metrics\n"))
            with self.assertRaises((urllib.error.URLError, ConnectionError, ssl.SSLError)):
                self.get(page, None)
        models = f"https://{self.address('http-0')}/v1/models"
        self.assertEqual(self.get(models, "client")[0], 200)
        self.assertEqual(self.get(models, "trainer")[0], 403)

        page = f"https://{self.address('page-0')}/api/progress"
        self.assertTrue(json.loads(self.get(page, "operator")[1])["live"])
        self.assertEqual(self.get(page, "metrics"), (403, "the role metrics may not call /page\n"))
        watch = [BINARY, "watch", str(self.run_folder), "--once"]
        seen = subprocess.run([*watch, "--tls", str(self.tls)], capture_output=True, text=True, timeout=90)
        self.assertEqual(seen.returncode, 0, seen.stderr)
        self.assertIn("inference-0 ready", seen.stderr)

    def assert_the_command_and_the_example_get_through(self):
        said = self.tokenize("--tls", self.tls)
        self.assertEqual(said.returncode, 0, said.stderr)
        self.assertEqual(len(json.loads(said.stdout)["ids"]), 4)
        clear = self.tokenize()
        self.assertEqual((clear.returncode, clear.stdout), (1, ""), clear.stderr)
        streamed = subprocess.run([EXAMPLE, self.address("inference-0"), "^Fa7", str(self.tls)], capture_output=True,
                                  text=True, timeout=90)
        self.assertEqual(streamed.returncode, 0, streamed.stderr)
        self.assertIn(" events\n", streamed.stdout)

    def test_a_run_goes_from_nothing_to_its_report_under_tls(self):
        launched = self.launch(f"orchestrator.rl.steps={STEPS}")
        out, _ = launched.communicate(timeout=400)
        self.assertEqual(launched.returncode, 0, self.messages.read_text())
        self.assertIn(f"/{STEPS} ", self.messages.read_text())  # the operator's certificate sees the progress
        outcome = json.loads(out)
        self.assertEqual(outcome["restarts"], 0)
        self.assertEqual(json.loads(pathlib.Path(outcome["report"]).read_text())["steps"], STEPS)

    def test_strangers_stay_out_and_new_certificates_are_taken_while_it_runs(self):
        launched = self.launch("orchestrator.rl.steps=100000")
        self.await_step(launched, 1)
        self.assert_doors_open_for_the_right_ones_only()
        self.assert_the_command_and_the_example_get_through()
        self.assert_every_door_shows_its_newest_certificate()
        before = {role: (self.tls / f"{role}.pem").read_text() for role in ROLES}
        self.make_certs("--renew", "all")
        for role in ROLES:
            self.assertNotEqual((self.tls / f"{role}.pem").read_text(), before[role], "the control")
        time.sleep(2.5)  # of reload: 1s
        self.assert_every_door_shows_its_newest_certificate()
        self.assert_the_command_and_the_example_get_through()
        self.await_step(launched, self.step + 3)
        launched.send_signal(signal.SIGTERM)
        out, _ = launched.communicate(timeout=120)
        self.assertEqual(launched.returncode, 128 + signal.SIGTERM, self.messages.read_text())
        self.assertEqual(json.loads(out)["restarts"], 0)

    def refused(self, *sets):
        launched = self.launch(*sets)
        launched.communicate(timeout=60)
        self.assertEqual(launched.returncode, 2, self.messages.read_text())
        return self.messages.read_text()

    def test_what_cannot_work_is_refused_before_a_daemon_starts(self):
        self.assertIn("tls.folder=/nowhere: /nowhere/operator.pem is missing", self.refused("tls.folder=/nowhere"))
        self.assertIn("env.insecure=true says that nothing is encrypted", self.refused("env.insecure=true"))
        self.assertIn("can be reached from other machines", self.refused("tls.folder=''"))
        (self.tls / "trainer.pem").write_text((self.tls / "env.pem").read_text())
        self.assertIn("trainer.pem is the certificate of the role env", self.refused())
        self.assertFalse((self.run_folder / "addresses").exists())


if __name__ == "__main__":
    BINARY, EXAMPLE = sys.argv[1:3]
    del sys.argv[1:3]
    unittest.main()
