#!/usr/bin/env python3
"""deploy/tls/make-certs.sh: what it makes, what it leaves alone, what it makes again. From the root of the repository."""
import pathlib
import subprocess
import tempfile
import unittest

ROLES = {"inference", "router", "trainer", "orchestrator", "env", "client", "operator", "metrics"}


def openssl(*words):
    return subprocess.run(["openssl", *words], check=True, capture_output=True, text=True).stdout


class MakeCerts(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder = pathlib.Path(folder.name, "run")
        self.tls = self.run_folder / "tls"

    def make(self, *words, code=0):
        made = subprocess.run(["deploy/tls/make-certs.sh", self.run_folder, *words], capture_output=True, text=True)
        self.assertEqual(made.returncode, code, made.stderr)
        return made.stderr

    def files(self):
        return {path.name: path.read_text() for path in self.tls.iterdir()}

    def test_every_role_gets_a_file_that_its_owner_alone_reads(self):
        self.make("node1", "10.1.2.3")
        self.assertEqual(set(self.files()), {f"{role}.pem" for role in ROLES} | {"ca.pem", "ca.key"})
        for path in self.tls.iterdir():
            self.assertEqual(path.stat().st_mode & 0o777, 0o600, path)
        for role in ROLES:
            text = openssl("x509", "-in", self.tls / f"{role}.pem", "-noout", "-ext", "subjectAltName,extendedKeyUsage")
            self.assertEqual(text.count("URI:"), 1)
            for name in (f"URI:palimpsest://role/{role}, ", "DNS:localhost, ", "IP Address:127.0.0.1, ", "DNS:node1, ",
                         "IP Address:10.1.2.3\n", "Web Server", "Web Client"):
                self.assertIn(name, text)
            openssl("verify", "-CAfile", self.tls / "ca.pem", self.tls / f"{role}.pem")

    def test_a_second_time_changes_nothing_and_one_role_is_renewed_alone(self):
        self.make("node1")
        before = self.files()
        self.make("node1")
        self.assertEqual(self.files(), before)
        self.make("--renew", "env", "--days", "2", "node1")
        after = self.files()
        self.assertEqual({name for name in after if after[name] != before[name]}, {"env.pem"})
        openssl("x509", "-in", self.tls / "env.pem", "-noout", "-checkend", str(86400))

    def test_a_new_host_and_an_old_certificate_are_reasons_to_renew(self):
        self.make()
        before = self.files()
        self.make("node2")
        after = self.files()
        self.assertEqual({name for name in after if after[name] == before[name]}, {"ca.pem", "ca.key"})
        self.make("--renew", "client", "--days", "1", "node2")
        short = self.files()["client.pem"]
        self.make("node2")
        self.assertNotEqual(self.files()["client.pem"], short)

    def test_another_ca_signs_everything_again_and_none_is_made_by_accident(self):
        self.make()
        before = self.files()
        (self.tls / "ca.key").rename(self.run_folder / "kept.key")
        self.make()
        self.assertIn("ca.key is not there", self.make("--renew", "env", code=2))
        self.assertEqual(set(before) - set(self.files()), {"ca.key"})
        (self.tls / "ca.pem").unlink()
        self.make()
        after = self.files()
        self.assertEqual({name for name in after if after[name] == before[name]}, set())

    def test_nonsense_is_refused_before_anything_is_made(self):
        for words in (["--renew", "root"], ["--days", "0"], ["--force"], ["a,URI:palimpsest://role/operator"], ["--days"]):
            self.make(*words, code=2)
        self.assertFalse(self.run_folder.exists())

    def test_an_empty_folder_is_refused_and_no_host_takes_its_place(self):
        made = subprocess.run([pathlib.Path("deploy/tls/make-certs.sh").absolute(), "", "host"], capture_output=True, text=True,
                              cwd=self.run_folder.parent)
        self.assertEqual((made.returncode, "RUN_FOLDER" in made.stderr), (2, True), made.stderr)
        self.assertEqual(list(self.run_folder.parent.iterdir()), [])

    def test_hosts_that_are_none_are_refused_by_name_whether_certificates_are_there_or_not(self):
        wrong = ["", "1.2.3", "1.2.3.4.5", "256.1.1.1", "01.2.3.4", "1.2.3.4.", "....", ":", "1:2", ":::", "1::2::3", "12345::", "g::1",
                 "1:2:3:4:5:6:7:8:9", "1:2:3:4:5:6:7::8", "1:2:3:4:5:6:7:", ":1:2:3:4:5:6:7", "::1.2.3", "::1.2.3.4:5", "fe80::1%eth0",
                 "a..b", ".a", "a.", "a-", "a*", "*.", "*", "a_b", "a b", "a\nb", "x" * 64]
        for there in (False, True):
            for host in wrong[:3] if there else wrong:
                said = self.make("good", host, code=2)
                self.assertIn(f'HOST={host or chr(34) * 2} is ', said)
            self.assertEqual(self.run_folder.exists(), there)
            before = self.files() if there else None
            if not there:
                self.make("good")
        self.assertEqual(self.files(), before)

    def test_addresses_in_every_spelling_are_taken_and_stay(self):
        hosts = ["0.0.0.0", "255.249.199.9", "::", "fe80::1", "1:2:3:4:5:6:7:8", "1::", "1:2:3:4:5:6:7::", "::ffff:1.2.3.4",
                 "1:2:3:4:5:6:1.2.3.4", "ABCD::ef", "a", "node-1.example.org", "*.example.org", "1a"]
        self.make(*hosts)
        before = self.files()
        self.make(*hosts)
        self.assertEqual(self.files(), before)


if __name__ == "__main__":
    unittest.main()
