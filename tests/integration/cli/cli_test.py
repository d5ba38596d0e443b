#!/usr/bin/env python3
"""Runs the built `palimpsest` as a script would: arguments and stdin in, JSON on stdout out.

Usage: cli_test.py PATH_OF_PALIMPSEST, from the root of the repository. Needs the standard library only.
"""
import json
import os
import pathlib
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unittest

BINARY = ""
GOLDEN = pathlib.Path("tests/golden")
MODEL = GOLDEN / "model/qwen3_tied"  # 2 layers, 2 KV heads, vocabulary 131; no tokenizer
LLAMA = GOLDEN / "model/llama3_scaling"
TOKENIZER = GOLDEN / "tokenizer/qwen2"
PROMPT = [(7 * i + 3) % 131 for i in range(12)]
PARAMETERS = {"mu", "lambda", "log_lower", "log_upper", "chooser", "reference_kind", "seed", "holdout_every"}
EVENT_KEYS = {"at", "window", "method", "reference", "kept", "parameters", "quality", "digest"}
BUDGET = ["--context", "kv_budget", "--set", "context.budget=36", "--set", "context.window=16",
          "--set", "context.keep_ratio=0.5", "--set", "context.reference_tokens=12"]


def run(*args, stdin=""):
    stdin = stdin if isinstance(stdin, bytes) else stdin.encode()
    return subprocess.run([BINARY, *map(str, args)], input=stdin, capture_output=True, timeout=120)


class Case(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def file(self, name, value):
        path = pathlib.Path(self.folder.name, name)
        path.write_text(json.dumps(value))
        return path

    def ok(self, *args, stdin=""):
        """The one JSON object that a successful call prints."""
        done = run(*args, stdin=stdin)
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        return json.loads(done.stdout)

    def refused(self, code, words, *args, stdin=""):
        """A call that fails prints nothing but its reason, on stderr."""
        done = run(*args, stdin=stdin)
        self.assertEqual(done.returncode, code, done.stderr.decode())
        self.assertEqual(done.stdout, b"")
        self.assertIn(words, done.stderr.decode())


class Tokens(Case):
    def test_text_goes_to_ids_and_back(self):
        text = "Hello  world\n\tпривет 👋🏽 x=1\r\n"
        ids = self.ok("tokenize", "--model", TOKENIZER, stdin=text)
        self.assertEqual(set(ids), {"ids"})
        self.assertTrue(all(isinstance(i, int) for i in ids["ids"]))
        self.assertEqual(self.ok("detokenize", "--model", TOKENIZER, stdin=json.dumps(ids)), {"text": text})

    def test_jsonl_answers_line_by_line(self):
        texts = ["one", "", "two\nlines", "  "]
        done = run("tokenize", "--model", TOKENIZER, "--jsonl",
                   stdin="".join(json.dumps({"text": t}) + "\n" for t in texts))
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        lines = done.stdout.decode().splitlines()
        self.assertEqual(len(lines), len(texts))
        back = run("detokenize", "--model", TOKENIZER, "--jsonl", stdin=done.stdout.decode())
        self.assertEqual([json.loads(line)["text"] for line in back.stdout.decode().splitlines()], texts)

    def test_a_conversation_becomes_ids_by_the_models_template(self):
        folder = pathlib.Path(self.folder.name) / "chat"
        shutil.copytree(TOKENIZER, folder)
        chat = json.dumps({"messages": [{"role": "user", "content": "hi"}], "enable_thinking": False})
        self.refused(1, "has no chat template", "tokenize", "--chat", "--model", folder, stdin=chat)
        shutil.copy(GOLDEN / "tokenizer/chat/qwen3.jinja", folder / "chat_template.jinja")
        ids = self.ok("tokenize", "--chat", "--model", folder, stdin=chat)
        self.assertEqual(self.ok("detokenize", "--model", folder, stdin=json.dumps(ids)), {
            "text": "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"})
        lines = run("tokenize", "--chat", "--jsonl", "--model", folder, stdin=chat + "\n" + chat + "\n")
        self.assertEqual([json.loads(line) for line in lines.stdout.decode().splitlines()], [ids, ids])
        self.refused(1, "messages[0].role=bot", "tokenize", "--chat", "--model", folder,
                     stdin='{"messages": [{"role": "bot", "content": ""}]}')
        self.refused(2, "--add-special-tokens", "tokenize", "--chat", "--add-special-tokens", "--model", folder)

    def test_broken_input_names_its_line(self):
        self.refused(1, '"ids"', "detokenize", "--model", TOKENIZER, stdin='{"id": [1]}')
        done = run("tokenize", "--model", TOKENIZER, "--jsonl", stdin='{"text": "a"}\nnope\n')
        self.assertEqual(done.returncode, 1)
        self.assertIn("stdin:2", done.stderr.decode())
        self.refused(1, "parse error at line 2, column 5", "detokenize", "--model", TOKENIZER,
                     stdin='{"ids":\n [1,, 2]}')

    def test_bytes_that_are_no_text_are_refused_by_their_place(self):
        self.refused(1, "not UTF-8 at byte 3 (0xff)", "tokenize", "--model", TOKENIZER, stdin=b"a\xc3\xa9\xff b")
        self.refused(1, "not UTF-8 at byte 1 (0xe4)", "tokenize", "--model", TOKENIZER, stdin=b"a\xe4\xbd")
        self.refused(1, "UTF-8", "tokenize", "--jsonl", "--model", TOKENIZER, stdin=b'{"text": "\xff"}\n')

    def test_the_output_of_generate_is_read_as_its_new_tokens(self):
        ids = self.ok("tokenize", "--model", TOKENIZER, stdin="Hello")["ids"]
        out = {"prompt_ids": [1, 2], "ids": ids, "logprobs": [-1.0], "events": []}
        self.assertEqual(self.ok("detokenize", "--model", TOKENIZER, stdin=json.dumps(out)), {"text": "Hello"})


class Generation(Case):
    def generate(self, *extra, model=MODEL, tokens=80, temperature="1"):
        prompt = self.file("prompt.json", {"ids": PROMPT})
        return self.ok("generate", "--model", model, "--ids-file", prompt, "--max-tokens", tokens,
                       "--temperature", temperature, "--ignore-eos", *extra)

    def score(self, out, *extra, model=MODEL, events=None):
        ids = self.file("all.json", {"ids": PROMPT + out["ids"]})
        args = ["score", "--model", model, "--ids-file", ids, *extra]
        if events is not None:
            args += ["--events-file", self.file("events.json", events)]
        scored = self.ok(*args)
        self.assertEqual(set(scored), {"logprobs"})
        self.assertEqual(len(scored["logprobs"]), len(PROMPT) + len(out["ids"]) - 1)
        return scored["logprobs"][len(PROMPT) - 1:]

    def far(self, out, scored):
        return max(abs(a - b) for a, b in zip(out["logprobs"], scored, strict=True))

    def test_the_output_has_the_shape_of_the_contract(self):
        out = self.generate(*BUDGET)
        # A folder has no policy version.
        self.assertEqual(set(out), {"prompt_ids", "ids", "logprobs", "origins", "finish_reason", "events"})
        self.assertEqual(out["prompt_ids"], PROMPT)
        self.assertEqual(len(out["ids"]), 80)
        self.assertEqual(len(out["logprobs"]), 80)
        self.assertEqual(out["origins"], ["sampled"] * 80)
        self.assertEqual(out["finish_reason"], "length")
        self.assertGreaterEqual(len(out["events"]), 3)
        last = 0
        for event in out["events"]:
            self.assertEqual(set(event), EVENT_KEYS)
            self.assertEqual(set(event["parameters"]), PARAMETERS)
            self.assertEqual(event["method"], "attention_matching")
            self.assertGreater(event["at"], last)
            last = event["at"]
            begin, end = event["window"]
            self.assertGreaterEqual(begin, len(PROMPT))  # the prompt is protected
            self.assertLessEqual(end, event["at"])
            self.assertEqual(event["reference"], [event["at"] - 12, event["at"]])
            self.assertEqual([len(layer) for layer in event["kept"]], [2, 2])
            for head in (h for layer in event["kept"] for h in layer):
                self.assertEqual(head, sorted(set(head)))
                self.assertEqual(len(head), 8)
                self.assertTrue(all(begin <= p < end for p in head))
            self.assertRegex(event["digest"], "^[0-9a-f]{32}$")

    def test_score_says_what_generate_said(self):
        for method in ("attention_matching", "evict", "markovian"):
            with self.subTest(method=method):
                out = self.generate(*BUDGET, "--set", f"context.method={method}")
                self.assertGreaterEqual(len(out["events"]), 2)
                self.assertLessEqual(self.far(out, self.score(out, events=out)), 2e-4)
                # The control: without its log the same tokens have other log-probabilities.
                self.assertGreater(self.far(out, self.score(out)), 1e-3)

    def test_score_and_generate_read_what_generate_printed(self):
        out = self.generate(*BUDGET)
        file = self.file("out.json", out)
        scored = self.ok("score", "--model", MODEL, "--ids-file", file, "--events-file", file)["logprobs"]
        self.assertEqual(scored[len(PROMPT) - 1:], self.score(out, events=out))
        more = self.ok("generate", "--model", MODEL, "--ids-file", file, "--max-tokens", 3)
        self.assertEqual(more["prompt_ids"], PROMPT + out["ids"])

    def test_a_generation_ends_with_length_at_the_models_last_position(self):
        prompt = self.file("prompt.json", {"ids": PROMPT})
        room = json.loads((MODEL / "config.json").read_text())["max_position_embeddings"] - len(PROMPT)
        args = ["generate", "--model", MODEL, "--ids-file", prompt, "--ignore-eos", "--max-tokens"]
        whole = self.ok(*args, room)
        self.assertEqual((len(whole["ids"]), whole["finish_reason"]), (room, "length"))
        self.assertEqual(self.ok(*args, room + 1000), whole)

    def test_segments_and_the_options_are_heard(self):
        out = self.generate("--context", "segments", "--set", "context.every=20", "--set", "context.window=10",
                            "--set", "context.keep_ratio=0.3", "--set", "context.holdout_every=3",
                            "--set", "context.protect=4", "--set", "context.mu=0.05")
        self.assertEqual([e["at"] - len(PROMPT) for e in out["events"]], [20, 40, 60])
        self.assertEqual(out["events"][0]["window"][0], 4)
        self.assertEqual(out["events"][0]["parameters"]["mu"], 0.05)
        self.assertIn("holdout_mass_error", out["events"][0]["quality"])
        self.assertLessEqual(self.far(out, self.score(out, events=out)), 2e-4)

    def test_temperature_is_that_of_the_recorded_log_probabilities(self):
        out = self.generate(*BUDGET, temperature="0.7")
        self.assertLessEqual(self.far(out, self.score(out, "--temperature", "0.7", events=out)), 2e-4)
        greedy = self.generate(*BUDGET, temperature="0")
        self.assertLessEqual(self.far(greedy, self.score(greedy, events=greedy)), 2e-4)  # recorded at 1

    def test_the_same_seed_draws_the_same_tokens(self):
        self.assertEqual(self.generate("--seed", 5)["ids"], self.generate("--seed", 5)["ids"])
        self.assertNotEqual(self.generate("--seed", 5)["ids"], self.generate("--seed", 6)["ids"])
        self.assertEqual(self.generate()["ids"], self.generate("--seed", 0)["ids"])
        self.assertEqual(len(self.generate("--seed", 2**64 - 1, tokens=3)["ids"]), 3)

    def test_a_missing_digest_is_filled_in_and_a_wrong_one_refused(self):
        out = self.generate(*BUDGET)
        events = json.loads(json.dumps(out["events"]))
        for event in events:
            del event["digest"]
        self.assertLessEqual(self.far(out, self.score(out, events={"events": events})), 2e-4)
        events[1]["digest"] = "0" * 32
        ids = self.file("all.json", {"ids": PROMPT + out["ids"]})
        broken = self.file("broken.json", {"events": events})
        self.refused(1, "digest", "score", "--model", MODEL, "--ids-file", ids, "--events-file", broken)

    def test_bfloat16_scores_what_it_generated(self):
        """bf16 rounds at other places when tokens come together: no 2e-4, but far from what ignoring the log does."""
        model = GOLDEN / "model/qwen3_bf16"
        out = self.generate("--dtype", "bfloat16", *BUDGET, model=model)
        self.assertGreaterEqual(len(out["events"]), 2)
        self.assertLessEqual(self.far(out, self.score(out, "--dtype", "bfloat16", model=model, events=out)), 0.05)
        self.assertGreater(self.far(out, self.score(out, "--dtype", "bfloat16", model=model)), 0.1)

    def test_a_llama_compacts_as_well(self):
        out = self.generate(*BUDGET, model=LLAMA)
        self.assertLessEqual(self.far(out, self.score(out, model=LLAMA, events=out)), 2e-4)


class CommandLine(Case):
    def test_senseless_command_lines_exit_with_2(self):
        prompt = self.file("prompt.json", {"ids": PROMPT})
        generate = ["generate", "--model", MODEL, "--ids-file", prompt, "--temperature", "1"]
        self.refused(2, "--max-tokens", *generate)
        self.refused(2, "--max-tokens", *generate, "--max-tokens", "0")
        self.refused(2, "bugdet", *generate, "--max-tokens", "5", *BUDGET, "--set", "context.bugdet=3")
        self.refused(2, "sometimes", *generate, "--max-tokens", "5", "--context", "sometimes")
        for seed in ("-1", str(2**64), "1.5", "1e3", "x", ""):
            self.refused(2, "--seed: " + seed, *generate, "--max-tokens", "5", "--seed", seed)
            self.refused(2, "context.seed=" + seed, *generate, "--max-tokens", "5", *BUDGET, "--set",
                         "context.seed=" + seed)
        self.refused(2, "--dtype", *generate, "--max-tokens", "5", "--dtype", "int8")
        self.refused(2, "--device tpu", *generate, "--max-tokens", "5", "--device", "tpu")
        self.refused(2, "--device is for --model", "generate", "--server", "a:1", *generate[3:], "--max-tokens", "5", "--device", "cuda")
        self.refused(2, "one of --model DIR and --server", "tokenize")
        self.refused(2, "one of --model DIR and --server", "tokenize", "--model", "a", "--server", "b:1")
        self.refused(2, 'there is no subcommand "frobnicate"; there are: tokenize, detokenize, score', "frobnicate")
        self.refused(2, "A subcommand is required")
        self.refused(2, "context.budget is not given", *generate, "--max-tokens", "5", "--context", "kv_budget")
        self.refused(2, "--min-policy-version", *generate, "--max-tokens", "5", "--min-policy-version", "3")
        self.refused(2, "--tls is for --server", *generate, "--max-tokens", "5", "--tls", "certificates")
        self.refused(1, "certificates/client.pem is missing", "score", "--server", "a:1", "--tls", "certificates",
                     "--ids-file", prompt)
        self.refused(2, "certificates/operator.pem is missing", "serve", "--model", MODEL, "--tls", "certificates")
        self.refused(2, "--tls is for --server and --env", "eval", "--model", MODEL, "--config", "x", "--tls", "y",
                     "--tasks", "registers", "--out", "z")
        self.refused(2, "--min-policy-version: -3", "score", "--server", "a:1", "--ids-file", prompt,
                     "--min-policy-version", "-3")
        self.refused(2, "--port 70000", "serve", "--model", MODEL, "--port", "70000")
        self.refused(2, "--replicas 0", "serve", "--model", MODEL, "--replicas", "0")
        self.refused(2, "run.folder=x", "serve", "--model", MODEL, "--set", "run.folder=x")
        self.refused(2, "", "score", "--model", MODEL, "--ids-file", prompt, "--frobnicate")

    def test_work_that_fails_exits_with_1(self):
        prompt = self.file("prompt.json", {"ids": PROMPT})
        self.refused(1, "no-such-folder", "tokenize", "--model", "no-such-folder", stdin="x")
        self.refused(1, "inference.device=cuda: this build has no CUDA", "generate", "--model", MODEL, "--ids-file", prompt,
                     "--max-tokens", "5", "--temperature", "1", "--device", "cuda")
        self.refused(1, "no-such-file", "score", "--model", MODEL, "--ids-file", "no-such-file")
        self.refused(1, "is not JSON", "score", "--model", MODEL, "--ids-file", "README.md")
        # protected + window > budget
        self.refused(1, "budget", "generate", "--model", MODEL, "--ids-file", prompt, "--max-tokens", "5",
                     "--temperature", "1", "--context", "kv_budget", "--set", "context.budget=10",
                     "--set", "context.window=8")
        self.refused(1, "UNAVAILABLE", "score", "--server", "127.0.0.1:1", "--ids-file", prompt)


class Serve(Case):
    """`serve` with the real daemon, which stands beside the command."""

    def setUp(self):
        super().setUp()
        self.run_folder = pathlib.Path(self.folder.name, "run")
        self.model = pathlib.Path(self.folder.name, "model")
        shutil.copytree(MODEL, self.model)

    def serve(self, *extra):
        child = subprocess.Popen([BINARY, "serve", "--model", self.model, "--folder", self.run_folder,
                                  "--set", "inference.threads=1", *extra],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        return child

    def test_a_folder_is_served_without_a_run_and_answers_name_its_version(self):
        child = self.serve()
        ready = json.loads(child.stdout.readline())
        self.assertEqual(ready["policy_version"], 1)
        self.assertEqual(ready["folder"], str(self.run_folder))
        self.assertIn(ready["server"], (self.run_folder / "addresses/inference-0").read_text())
        server = ["--server", ready["server"]]
        prompt = self.file("prompt.json", {"ids": PROMPT})
        ask = [*server, "--ids-file", prompt, "--max-tokens", 80, "--ignore-eos", "--seed", 5, *BUDGET]
        out = self.ok("generate", *ask, "--min-policy-version", 1)
        self.assertEqual(out["policy_versions"], [1])
        here = self.ok("generate", "--model", MODEL, *ask[2:])
        self.assertEqual(out["ids"], here["ids"])
        file = self.file("out.json", out)
        scored = self.ok("score", *server, "--ids-file", file, "--events-file", file)
        self.assertEqual(scored["policy_version"], 1)
        self.assertLessEqual(max(abs(a - b) for a, b in zip(scored["logprobs"][len(PROMPT) - 1:], out["logprobs"],
                                                            strict=True)), 2e-4)
        self.refused(1, "min_policy_version=2: the live weights are of version 1", "generate", *ask,
                     "--min-policy-version", 2)
        self.refused(1, "min_policy_version=2: the live weights are of version 1", "score", *server, "--ids-file", file,
                     "--min-policy-version", 2)
        self.refused(1, "--server", "generate", "--server", "127.0.0.1:70000", *ask[2:])
        to_the_end = ["--ids-file", prompt, "--max-tokens", 10**6, "--ignore-eos", "--temperature", 0]
        ended = self.ok("generate", *server, *to_the_end)
        self.assertEqual(ended["finish_reason"], "length")
        self.assertEqual(self.ok("generate", "--model", MODEL, *to_the_end)["ids"], ended["ids"])
        self.refused(1, "another launch or serve", "serve", "--model", self.model, "--folder", self.run_folder)
        child.send_signal(signal.SIGINT)
        rest, _ = child.communicate(timeout=60)
        self.assertEqual((child.returncode, rest), (0, b""))

    def test_a_folder_whose_name_is_no_text_is_served(self):
        self.model = self.model.rename(self.model.parent / os.fsdecode(b"\xff"))
        child = self.serve()
        self.assertEqual(json.loads(child.stdout.readline())["policy_version"], 1)
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
        self.assertEqual(child.returncode, 0)

    def test_several_replicas_have_one_address(self):
        child = self.serve("--replicas", "2")
        ready = json.loads(child.stdout.readline())
        self.assertIn(ready["server"], (self.run_folder / "addresses/router-0").read_text())
        prompt = self.file("prompt.json", {"ids": PROMPT})
        ask = ["--ids-file", prompt, "--max-tokens", 40, "--ignore-eos", "--seed", 5]
        self.assertEqual(self.ok("generate", "--server", ready["server"], *ask)["ids"],
                         self.ok("generate", "--model", MODEL, *ask)["ids"])
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=60)
        self.assertEqual(child.returncode, 0)

    def test_a_model_that_cannot_be_loaded_ends_it_at_once_with_the_reason(self):
        config = json.loads((self.model / "config.json").read_text())
        (self.model / "config.json").write_text(json.dumps(config | {"hidden_size": 36}))
        out, _ = self.serve().communicate(timeout=60)
        outcome = json.loads(out)
        self.assertEqual((outcome["exit_code"], outcome["restarts"]), (3, 0))
        self.assertIn("version 1: ", outcome["cause"])
        self.assertIn("tensor model.", outcome["cause"])

    def test_a_folder_that_is_not_there_is_named(self):
        self.refused(1, "no-such-folder", "serve", "--model", "no-such-folder", "--folder", self.run_folder)


class Launch(Case):
    """`launch` beside stand-ins for the daemons: shell scripts that note how they were called."""

    CONFIG = "run: {name: try, folder: %s/run, seed: 1}\norchestrator: {}\n"

    def setUp(self):
        super().setUp()
        self.bin = pathlib.Path(self.folder.name)
        shutil.copy(BINARY, self.bin / "palimpsest")
        self.config = self.bin / "run.yaml"
        self.config.write_text(self.CONFIG % self.bin)
        for role in ("env", "trainer", "inference"):
            self.stand_in(role, "trap 'echo bye; exit 0' TERM; while :; do sleep 0.05; done")

    def stand_in(self, role, body, check="exit 0"):
        path = self.bin / f"palimpsest-{role}"
        path.write_text(f'#!/bin/sh\ncase "$*" in *--check-config*) {check};; esac\necho "$@"\n{body}\n')
        path.chmod(0o755)

    def launch(self, *extra):
        return subprocess.run([self.bin / "palimpsest", "launch", "--config", self.config, *extra],
                              capture_output=True, timeout=60)

    def log(self, role):
        return (self.bin / f"run/logs/latest/{role}-0.log").read_text()

    def test_the_run_ends_with_its_orchestrator_and_says_where_the_report_is(self):
        self.stand_in("orchestrator", f"mkdir {self.bin}/run/report; echo '{{}}' > {self.bin}/run/report/report.json")
        done = self.launch("--set", "run.seed=7")
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        outcome = json.loads(done.stdout)
        self.assertEqual(outcome["report"], f"{self.bin}/run/report/report.json")
        self.assertNotIn("failure", outcome)
        for role in ("env", "trainer", "inference", "orchestrator"):
            self.assertIn(f"--config {self.config} --set run.seed=7", self.log(role))
        self.assertIn("bye", self.log("trainer"))

    def test_a_daemon_that_was_killed_is_started_again(self):
        self.stand_in("trainer", f"test -e {self.bin}/twice && exec sleep 60; touch {self.bin}/twice; kill -9 $$")
        self.stand_in("orchestrator", f"while ! test $(wc -l < {self.bin}/run/logs/latest/trainer-0.log) = 2; do sleep 0.1; done")
        done = self.launch()
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertEqual(json.loads(done.stdout)["restarts"], 1)
        self.assertIn("trainer-0 ended: killed by signal 9", done.stderr.decode())

    def test_a_failure_that_would_come_again_is_not_tried_again_and_its_cause_is_told(self):
        self.stand_in("orchestrator", "trap 'exit 0' TERM; while :; do sleep 0.05; done")
        line = json.dumps({"msg": "daemon failed", "status": "NOT_FOUND: /models/x has no tokenizer.json"})
        self.stand_in("trainer", f"echo '{line}'; exit 3")
        done = self.launch()
        self.assertEqual(done.returncode, 3, done.stderr.decode())
        outcome = json.loads(done.stdout)
        self.assertEqual(outcome["restarts"], 0)
        self.assertEqual(outcome["cause"], "NOT_FOUND: /models/x has no tokenizer.json")
        self.assertIn("trainer-0 failed: exit code 3", outcome["failure"])

    def test_the_orchestrator_is_told_what_was_typed(self):
        self.stand_in("orchestrator", "exit 0")
        self.assertEqual(self.launch("--set", "run.name=a b").returncode, 0)
        self.assertIn(f'--set orchestrator.command="{self.bin}/palimpsest launch --config {self.config} '
                      "--set 'run.name=a b'\"", self.log("orchestrator"))
        self.assertNotIn("orchestrator.command", self.log("trainer"))

    def test_a_refused_configuration_starts_nothing(self):
        self.stand_in("orchestrator", "exit 0")
        self.stand_in("trainer", "exit 0", check='echo "run.yaml:3: trainer.x is unknown" >&2; exit 2')
        done = self.launch()
        self.assertEqual(done.returncode, 2)
        self.assertEqual(done.stdout, b"")
        self.assertIn("trainer.x is unknown", done.stderr.decode())
        self.assertIn("trainer-0 refuses", done.stderr.decode())
        self.assertFalse((self.bin / "run/logs").exists())

    def test_each_attempt_has_its_logs_and_each_replica_its_rank(self):
        self.stand_in("orchestrator", "exit 0")
        for attempt in (1, 2):
            done = self.launch("--set", "placement.inference.replicas=2")
            self.assertEqual(done.returncode, 0, done.stderr.decode())
            self.assertEqual(json.loads(done.stdout)["attempt"], attempt)
        for attempt in ("attempt-001", "attempt-002"):
            self.assertIn("inference.rank=1", (self.bin / f"run/logs/{attempt}/inference-1.log").read_text())
        self.assertIn("orchestrator.peers.inference=2", self.log("orchestrator"))
        self.assertEqual((self.bin / "run/logs/latest").readlink(), pathlib.Path("attempt-002"))

    def test_a_router_is_started_when_it_is_asked_for(self):
        self.stand_in("orchestrator", "exit 0")
        self.assertEqual(self.launch().returncode, 0)
        self.assertFalse((self.bin / "run/logs/latest/router-0.log").exists())
        done = self.launch("--set", "placement.router.replicas=1", "--set", "placement.inference.replicas=2")
        self.assertEqual(done.returncode, 0, done.stderr.decode())
        self.assertIn("--set router.enabled=true", self.log("router"))
        self.assertNotIn("rank", self.log("router"))
        self.assertIn("--set router.enabled=false", self.log("inference"))
        done = self.launch("--set", "placement.router.replicas=2")
        self.assertIn("placement.router.replicas=2 is neither 0 nor 1", done.stderr.decode())

    def test_a_run_folder_that_is_a_file_is_named_by_its_key(self):
        self.stand_in("orchestrator", "exit 0")
        done = self.launch("--set", f"run.folder={self.config}")
        self.assertEqual(done.returncode, 2)
        self.assertIn(f"run.folder={self.config}: ", done.stderr.decode())

    def test_slurm_without_a_job_says_so(self):
        self.stand_in("orchestrator", "exit 0")
        environment = {name: value for name, value in os.environ.items() if not name.startswith("SLURM")}
        done = subprocess.run([self.bin / "palimpsest", "launch", "--slurm", "--config", self.config],
                              capture_output=True, timeout=60, env=environment)
        self.assertEqual(done.returncode, 2)
        self.assertIn("run.sbatch", done.stderr.decode())

    def test_ctrl_c_stops_all(self):
        self.stand_in("orchestrator", "trap 'echo saved; exit 0' TERM; while :; do sleep 0.05; done")
        child = subprocess.Popen([self.bin / "palimpsest", "launch", "--config", self.config],
                                 stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for line in child.stderr:
            if b"orchestrator-0 started" in line:
                break
        time.sleep(0.5)
        child.send_signal(signal.SIGINT)
        out, _ = child.communicate(timeout=30)
        self.assertEqual(child.returncode, 130)
        self.assertEqual(json.loads(out)["exit_code"], 130)
        self.assertIn("saved", self.log("orchestrator"))
        self.assertIn("bye", self.log("inference"))

    def test_children_do_not_outlive_a_killed_launch(self):
        self.stand_in("orchestrator", "while :; do sleep 0.05; done")
        child = subprocess.Popen([self.bin / "palimpsest", "launch", "--config", self.config],
                                 stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
        pids = [int(child.stderr.readline().split(b"pid ")[1]) for _ in range(4)]
        time.sleep(0.3)
        child.kill()
        child.communicate(timeout=30)
        for _ in range(100):
            if not any(pathlib.Path(f"/proc/{pid}/exe").exists() for pid in pids):
                return
            time.sleep(0.1)
        self.fail(f"still there: {pids}")


if __name__ == "__main__":
    BINARY = sys.argv.pop(1)
    unittest.main()
