#!/usr/bin/env python3
"""`palimpsest doctor` with the real daemons: a sound configuration, then one that is broken in each way.

Usage: doctor_test.py PATH_OF_PALIMPSEST, from the root of the repository. Needs the standard library only.
"""
import json
import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import unittest

BINARY = ""
CROOKED = pathlib.Path(__file__).with_name("crooked_disk.py")
CONFIG = "tests/integration/run/run.yaml"
DISK = ("writable", "fsync", "rename", "visibility", "clock", "space", "inodes")
ROLES = ("env", "trainer", "inference", "orchestrator")
TRUSTED = tuple(f"{role}.insecure=true" for role in ROLES)


class Doctor(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.run_folder = pathlib.Path(folder.name, "run")

    def look(self, *sets, options=(), through=(), **environment):
        """`through`: the beginning of a command that runs the rest of it."""
        command = [*through, BINARY, "doctor", "--config", CONFIG, *options]
        for one in (f"run.folder={self.run_folder}", *sets):
            command += ["--set", one]
        self.answer = subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **environment})
        return {check["name"]: check for check in json.loads(self.answer.stdout)["checks"]}

    def failing(self, *sets, **how):
        checks = self.look(*sets, **how)
        self.assertEqual(self.answer.returncode, 1, self.answer.stderr)
        failed = {name: check for name, check in checks.items() if check["verdict"] == "fail"}
        for name, check in failed.items():
            self.assertTrue(check["todo"], name)
            self.assertRegex(self.answer.stderr, f"FAIL  ([^ ]+: )?{name} ")
        return failed

    def test_a_sound_configuration_passes_and_nothing_is_left_behind(self):
        checks = self.look()
        self.assertEqual(self.answer.returncode, 0, self.answer.stderr)
        for name in [f"config {role}" for role in ROLES] + ["model", "writable", "rename", "fsync", "visibility"]:
            self.assertNotEqual(checks[name]["verdict"], "fail", name)
        self.assertLessEqual({"clock", "space", "inodes", "open_files", "processes", "memory", "cores", "certificates", "gpu", "nccl"},
                             set(checks))
        self.assertFalse(self.run_folder.exists())
        self.assertEqual(list(self.run_folder.parent.iterdir()), [])

    def test_a_value_that_one_daemon_refuses_is_told_in_its_words(self):
        failed = self.failing("trainer.keep_versions=1")
        self.assertEqual(set(failed), {"config trainer"})
        self.assertIn("keep_versions=1", failed["config trainer"]["saw"])

    def test_an_unknown_key_is_told_too(self):
        failed = self.failing("inference.kv_pool=1GiB")
        self.assertEqual(set(failed), {"config inference", "machine"})
        self.assertIn("kv_pool", failed["config inference"]["saw"])

    def test_a_missing_model_folder_a_taken_port_and_a_folder_of_others_are_all_named_at_once(self):
        with socket.create_server(("127.0.0.1", 0)) as taken:
            failed = self.failing("model.folder=/nowhere/at/all", "run.folder=/proc/run",
                                  f"env.listen=127.0.0.1:{taken.getsockname()[1]}", "inference.kv_pool_bytes=900TiB")
        self.assertLessEqual({"model", "writable", "port env.listen", "memory"}, set(failed))
        self.assertIn("/nowhere/at/all", failed["model"]["saw"])
        self.assertIn("kv_pool_bytes", failed["memory"]["todo"])

    def test_certificates_that_end_soon_warn_and_those_that_are_missing_fail(self):
        subprocess.run(["deploy/tls/make-certs.sh", self.run_folder], check=True, capture_output=True, timeout=60)
        self.assertEqual(self.look(f"tls.folder={self.run_folder}/tls")["certificates"]["verdict"], "pass")
        key, request = self.run_folder / "tls/trainer.key", self.run_folder / "tls/trainer.csr"
        short = self.run_folder / "tls/short.ext"
        short.write_text("subjectAltName=URI:palimpsest://role/trainer\nextendedKeyUsage=serverAuth,clientAuth\n")
        subprocess.run(["openssl", "req", "-new", "-newkey", "rsa:2048", "-nodes", "-subj", "/CN=trainer", "-keyout", key, "-out", request],
                       check=True, capture_output=True, timeout=60)
        made = subprocess.run(["openssl", "x509", "-req", "-in", request, "-CA", self.run_folder / "tls/ca.pem", "-CAkey",
                               self.run_folder / "tls/ca.key", "-CAcreateserial", "-days", "3", "-extfile", short],
                              check=True, capture_output=True, text=True, timeout=60)
        (self.run_folder / "tls/trainer.pem").write_text(key.read_text() + made.stdout)  # for its owner alone, as it was
        soon = self.look(f"tls.folder={self.run_folder}/tls")["certificates"]
        self.assertEqual((soon["verdict"], "trainer.pem" in soon["saw"]), ("warn", True), soon)
        (self.run_folder / "tls/trainer.pem").unlink()
        failed = self.failing(f"tls.folder={self.run_folder}/tls")
        self.assertIn("trainer.pem", failed["certificates"]["saw"])

    def test_gpus_are_what_nvidia_smi_says_and_placement_may_not_ask_for_more(self):
        tools = self.run_folder.parent / "tools"
        tools.mkdir()
        (tools / "nvidia-smi").write_text("#!/bin/sh\nprintf 'NVIDIA H200, 550.54\\nNVIDIA H200, 550.54\\n'\n")
        (tools / "nvidia-smi").chmod(0o755)
        path = {"PATH": f"{tools}:{os.environ['PATH']}"}
        two = self.look(**path)["gpu"]
        self.assertEqual((two["verdict"], two["saw"]), ("pass", "2: NVIDIA H200, driver 550.54"))
        failed = self.failing("placement.trainer.gpus=3", **path)
        self.assertEqual(set(failed), {"gpu", "config placement"})
        (tools / "nvidia-smi").write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
        failed = self.failing(**path)
        self.assertIn("ends with 9: NVIDIA-SMI has failed", failed["gpu"]["saw"])

    def test_ranks_and_their_reference_models_count_in_memory(self):
        def needed(*sets):
            memory = self.look("model.init.hidden=1024", "model.init.head_dim=64", *sets)["memory"]
            return int(re.search(r"pool take (\d+) MiB", memory["saw"])[1])
        alone = needed()
        ranks = needed("placement.trainer.ranks=3")
        self.assertGreater(ranks, alone)
        self.assertGreater(needed("placement.trainer.ranks=3", "trainer.loss.reference_kl.coefficient=0.1",
                                  "trainer.reference_folder=."), ranks)

    def test_a_router_is_judged_as_launch_would_start_it(self):
        self.assertNotIn("config router", self.look("router.poll=1h"))
        checks = self.look("placement.router.replicas=1", "placement.inference.replicas=2")
        self.assertEqual(self.answer.returncode, 0, self.answer.stderr)
        self.assertEqual(checks["config router"]["verdict"], "pass")
        failed = self.failing("placement.router.replicas=1", "router.load_factor=0")
        self.assertEqual(set(failed), {"config router"})
        self.assertIn("router.load_factor=0", failed["config router"]["saw"])
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            failed = self.failing("placement.router.replicas=1", f"router.listen=127.0.0.1:{port}", f"router.metrics=127.0.0.1:{port}")
        self.assertEqual(set(failed), {"port router.listen", "port router.metrics"})
        subprocess.run(["deploy/tls/make-certs.sh", self.run_folder], check=True, capture_output=True, timeout=60)
        tls = f"tls.folder={self.run_folder}/tls"
        (self.run_folder / "tls/router.pem").unlink()
        self.assertEqual(self.look(tls)["certificates"]["verdict"], "pass")
        failed = self.failing(tls, "placement.router.replicas=1")
        self.assertEqual(set(failed), {"config router", "certificates"})
        for check in failed.values():
            self.assertIn("router.pem", check["saw"])

    def test_a_place_is_judged_by_host_and_by_how_many_would_listen_there(self):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        fixed = f"inference.listen=127.0.0.1:{port}"
        self.look(fixed, f"trainer.listen=127.0.0.2:{port}")
        self.assertEqual(self.answer.returncode, 0, self.answer.stderr)
        failed = self.failing(fixed, "placement.inference.replicas=2")
        self.assertEqual(set(failed), {"port inference.listen"})
        self.assertIn("asked for by 2 daemons", failed["port inference.listen"]["saw"])

    def test_what_launch_refuses_of_the_placement_fails_in_the_same_words(self):
        for key, said in (("placement.inference.nodes=[1]", "placement.inference.nodes=1 is for a Slurm job, and --slurm is not given"),
                          ("placement.env.cpus=2", "placement.env.cpus=2 is for a Slurm job"), ("placement.stop_grace=0s", "stop_grace=0 is not > 0"),
                          ("placement.trainer.replicas=2", "placement.trainer.replicas=2 is not 1"), ("placement.trainer.rank=2", "placement.trainer.rank")):
            failed = self.failing(key)
            self.assertIn(said, failed["config placement"]["saw"])
            launch = subprocess.run([BINARY, "launch", "--config", CONFIG, "--set", f"run.folder={self.run_folder}", "--set", key],
                                    capture_output=True, text=True, timeout=60)
            self.assertEqual(launch.returncode, 2)
            self.assertIn(said, launch.stderr)

    def test_a_stop_that_is_shorter_than_what_rollouts_get_warns(self):
        seen = self.look("orchestrator.drain_grace=40s")["stop_grace"]
        self.assertEqual(seen["verdict"], "warn")
        self.assertIn("placement.stop_grace=30s", seen["saw"])
        self.assertIn("orchestrator.drain_grace=40s", seen["saw"])
        self.assertEqual(self.look("orchestrator.drain_grace=40s", "placement.stop_grace=60s")["stop_grace"]["verdict"], "pass")

    def test_a_name_that_is_no_text_is_told(self):
        answer = subprocess.run([BINARY, "doctor", "--config", b"/tmp/\xff.yaml"], capture_output=True, timeout=60)
        self.assertEqual(answer.returncode, 1, answer.stderr)
        self.assertEqual(json.loads(answer.stdout)["config"], "/tmp/\ufffd.yaml")

    def elsewhere(self, *through, **how):
        """What is judged of run.folder's file system, which `through` brings: name: (verdict, what was seen)."""
        if os.geteuid() != 0 or not os.path.exists("/dev/fuse"):
            self.skipTest("to mount file systems needs root and /dev/fuse")
        self.run_folder.mkdir(exist_ok=True)
        checks = self.look(through=[*through], **how)
        judged = {name: (checks[name]["verdict"], checks[name]["saw"]) for name in DISK if name in checks}
        for name, (verdict, _) in judged.items():
            self.assertEqual(bool(checks[name]["todo"]), verdict != "pass", name)
        self.assertEqual(self.answer.returncode, int("fail" in [check["verdict"] for check in checks.values()]))
        return judged

    def crooked(self, flaw):
        return self.elsewhere(sys.executable, CROOKED, self.run_folder, flaw, "--")

    def assert_only(self, judged, name, verdict, saw):
        """Of all that is judged of the disk that one does not pass."""
        self.assertEqual({other: v for other, (v, _) in judged.items() if v != "pass"}, {name: verdict}, judged)
        self.assertRegex(judged[name][1], saw)

    def test_a_file_system_without_a_flaw_passes_that_is_the_control_of_those_that_have_one(self):
        self.assertEqual({name: verdict for name, (verdict, _) in self.crooked("list=0").items()}, dict.fromkeys(DISK, "pass"))

    def test_a_rename_that_does_not_replace_or_is_not_whole_is_named(self):
        self.assert_only(self.crooked("rename=refused"), "rename", "fail", "rename to .*/renamed: File exists")
        self.assert_only(self.crooked("rename=torn"), "rename", "fail", r"\d+ of \d+ reads were torn")

    def test_a_disk_without_inodes_is_told_as_that_and_not_as_another_kind(self):
        judged = self.crooked("files=2")  # the probing folder and one file
        failed = {name for name, (verdict, _) in judged.items() if verdict == "fail"}
        self.assertEqual(failed, {"rename", "visibility", "clock"}, judged)
        for name in failed:
            self.assertIn("No space left on device", judged[name][1])
        self.assertIn("-> make room where run.folder stands: bytes, inodes or quota", self.answer.stderr)
        self.assertNotIn("object store", self.answer.stderr)

    def test_an_fsync_that_fails_or_takes_long_is_named(self):
        self.assert_only(self.crooked("fsync=refused"), "fsync", "fail", "fsync .*: Input/output error")
        self.assert_only(self.crooked("fsync=0.3"), "fsync", "warn", r"\d+\.\d ms")

    def test_a_listing_that_is_late_or_never_fresh_is_named(self):
        self.assert_only(self.crooked("list=0.3"), "visibility", "warn", r"listed after \d+ ms")
        self.assert_only(self.crooked("list=60"), "visibility", "fail", "is not listed")

    def test_a_mount_that_is_read_only_or_full_is_told_as_that(self):
        for options, said in (("ro", "Read-only file system"), ("size=4k", "No space left on device")):
            mount = f'mount -t tmpfs -o {options} none {self.run_folder} && exec "$@"'
            judged = self.elsewhere("unshare", "--mount", "sh", "-c", mount, "sh")
            self.assertEqual([name for name in judged if name in DISK[:5]], ["writable"], judged)
            self.assertEqual(judged["writable"][0], "fail")
            self.assertIn(said, judged["writable"][1])

    def test_outside_of_a_job_slurm_is_told_to_be_missing(self):
        failed = self.failing(options=["--slurm"], SLURM_JOB_ID="")
        self.assertEqual(set(failed), {"job"})
        self.assertIn("SLURM_JOB_ID", failed["job"]["saw"])

    def job(self, srun):
        """The environment of a Slurm job of two nodes that are this machine by two names; `srun` is the end of a shell script."""
        tools = self.run_folder.parent / "tools"
        tools.mkdir(exist_ok=True)
        nodes = "printf 'localhost\\n127.0.0.2\\n'"
        for name, script in (("squeue", nodes), ("scontrol", nodes), ("srun", f'while [ "${{1#--}}" != "$1" ]; do shift; done\n{srun}')):
            (tools / name).write_text(f"#!/bin/sh\n{script}\n")
            (tools / name).chmod(0o755)
        return {"SLURM_JOB_ID": "1", "PATH": f"{tools}:{os.environ['PATH']}"}

    def both_nodes(self):
        start = 'SLURM_NNODES=2 SLURM_NODEID={} SLURMD_NODENAME={} SLURM_JOB_CPUS_PER_NODE="8,4" "$@" &\n'
        return self.job(start.format(0, "localhost") + start.format(1, "127.0.0.2") + "wait")

    def test_in_a_job_every_node_looks_at_itself_and_at_the_others(self):
        checks = self.look(*TRUSTED, options=["--slurm"], **self.both_nodes())
        self.assertEqual(self.answer.returncode, 0, self.answer.stderr)
        for other in ("localhost", "127.0.0.2"):
            for what in ("network", "clock", "visibility"):
                self.assertNotEqual(checks[f"{what} to {other}"]["verdict"], "fail")
        self.assertNotIn("node", checks["config trainer"], "what passes on both is told once")
        self.assertEqual([path.name for path in self.run_folder.parent.iterdir()], ["tools"])

    def test_a_node_that_the_job_does_not_have_is_named(self):
        self.look("placement.inference.nodes=[2]", *TRUSTED, options=["--slurm"], **self.both_nodes())
        self.assertEqual(self.answer.returncode, 1)
        self.assertIn("placement.inference.nodes=2: the job has 2 nodes", self.answer.stderr)

    def test_a_job_without_certificates_that_does_not_trust_its_network_is_told_what_to_set(self):
        failed = self.failing(options=["--slurm"], **self.both_nodes())
        self.assertEqual(set(failed), {f"config {role}" for role in ROLES})
        for role in ROLES:
            said = failed[f"config {role}"]["saw"]
            self.assertIn(f"{role}.listen=0.0.0.0:0 can be reached from other machines and nothing there is encrypted", said)
            self.assertIn(f"name certificates in tls.folder, or set {role}.insecure: true", said)

    def test_cpus_that_the_job_does_not_have_on_a_node_are_named_there(self):
        cpus = ("placement.trainer.cpus=4", "placement.inference.cpus=2")
        self.assertEqual(self.look(*TRUSTED, *cpus, "placement.inference.nodes=[1]", options=["--slurm"],
                                   **self.both_nodes())["cpus"]["verdict"], "pass")
        self.look(*TRUSTED, *cpus, "placement.inference.nodes=[1]", "placement.trainer.nodes=[1]", options=["--slurm"], **self.both_nodes())
        [failed] = [check for check in json.loads(self.answer.stdout)["checks"] if check["verdict"] == "fail"]
        self.assertEqual((failed["name"], failed["node"]), ("cpus", "127.0.0.2"))
        self.assertEqual(failed["saw"], "placement gives 6 to daemons of this node, the job has 4 there")
        self.assertEqual(self.answer.returncode, 1)

    def test_a_node_that_tells_nothing_is_named_with_the_end_of_srun(self):
        checks = self.look(options=["--slurm"], **self.job("exit 3"))
        self.assertEqual(self.answer.returncode, 1)
        self.assertEqual((checks["node"]["verdict"], checks["node"]["node"]), ("fail", "localhost"), "the last of both names")
        self.assertIn("srun: exit code 3", checks["node"]["saw"])
        self.assertRegex(self.answer.stderr, "FAIL  127.0.0.2: node ")


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    unittest.main()
