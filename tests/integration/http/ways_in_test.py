#!/usr/bin/env python3
"""The ways into a real daemon: the `openai` package, grpcio, the examples; what they say must be one and the same.

Usage: ways_in_test.py PALIMPSEST_INFERENCE PUBLISH_FOLDER GENERATE_EXAMPLE, from the root of the repository.
Exit code 77 where the Python clients are missing.
"""
import asyncio
import json
import os
import pathlib
import re
import signal
import ssl
import subprocess
import sys
import tempfile
import time
import unittest
import urllib.request

sys.dont_write_bytecode = True
import clients  # noqa: E402

clients.enter()

import grpc  # noqa: E402
import httpx  # noqa: E402
import openai  # noqa: E402
import tiny_model  # noqa: E402

sys.path.insert(0, "examples")
import generate  # noqa: E402

DAEMON, PUBLISH, EXAMPLE = (str(pathlib.Path(word)) for word in sys.argv[1:4])
PB, PB_GRPC = generate.stubs()
PROMPT = "Once upon a time"
MESSAGES = [{"role": "system", "content": "Be kind."}, {"role": "user", "content": "hi"}]
CONTEXT = {"kind": "kv_budget", "budget": 32, "window": 16}


def eventually(what, seconds=30):
    """The first true answer of `what`."""
    for _ in range(seconds * 20):
        found = what()
        if found:
            return found
        time.sleep(0.05)
    raise AssertionError(f"{what} never came true")


class Case(unittest.TestCase):
    TLS = False
    FLEET = False  # two replicas behind a router, which has the door

    @classmethod
    def setUpClass(cls):
        folder = pathlib.Path(cls.enterClassContext(tempfile.TemporaryDirectory()))
        tiny_model.write(folder / "model")
        cls.run_folder = folder / "run"
        cls.run_folder.mkdir()
        subprocess.run([PUBLISH, cls.run_folder / "store", folder / "model"], check=True, timeout=30)
        door = "http: {listen: '127.0.0.1:0', max_body: 1MiB"
        replicas = "inference: {store_poll: 50ms, threads: 1" + ("}\n" if cls.FLEET else f", {door}}}}}\n")
        (folder / "run.yaml").write_text(
            f"run: {{name: tiny, folder: {cls.run_folder}}}\n" + replicas
            + (f"router: {{poll: 100ms, {door}, tokenizer: {folder}/model}}}}\n" if cls.FLEET else "")
            + (f"tls: {{folder: {cls.run_folder}/tls}}\n" if cls.TLS else ""))
        if cls.TLS:
            subprocess.run(["deploy/tls/make-certs.sh", cls.run_folder], check=True, capture_output=True, timeout=60)
        cls.log = folder / "log"
        for sets in (["inference.rank=0"], ["inference.rank=1"], ["router.enabled=true"])[:3 if cls.FLEET else 1]:
            cls.start(folder / "run.yaml", sets)
        cls.address = eventually(lambda: cls.address_of("router" if cls.FLEET else "inference"))
        cls.base = f"{'https' if cls.TLS else 'http'}://{cls.address_of('router_http' if cls.FLEET else 'http')}/v1"
        cls.openai = openai.OpenAI(base_url=cls.base, api_key="none", max_retries=0, timeout=30,
                                   http_client=cls.http_as("client"))
        cls.channel = cls.enterClassContext(generate.open_channel(cls.address, cls.run_folder / "tls" if cls.TLS else None))
        cls.stub = PB_GRPC.InferenceServiceStub(cls.channel)
        eventually(lambda: cls.info().policy_version == 1)
        if cls.FLEET:  # what it has room for adds up: both replicas are ready
            eventually(lambda: cls.info().limits.max_running == 2 * 64, seconds=60)

    @classmethod
    def start(cls, config, sets):
        """A daemon of the run; the last that is started is `cls.daemon`."""
        with open(cls.log, "ab") as log:
            cls.daemon = subprocess.Popen([DAEMON, "--config", config, *(w for s in sets for w in ("--set", s))], stderr=log)
        cls.addClassCleanup(cls.daemon.wait)
        cls.addClassCleanup(cls.daemon.kill)

    @classmethod
    def http_as(cls, role):
        """What the openai package speaks HTTP with under TLS; in clear text its own."""
        if not cls.TLS:
            return None
        context = ssl.create_default_context(cafile=cls.run_folder / "tls/ca.pem")
        context.load_cert_chain(cls.run_folder / f"tls/{role}.pem")
        return httpx.Client(verify=context)

    @classmethod
    def address_of(cls, role):
        path = cls.run_folder / "addresses" / f"{role}-0"
        return path.read_text().splitlines()[0] if path.exists() else None

    @classmethod
    def info(cls):
        return cls.stub.GetServerInfo(PB.InferenceServiceGetServerInfoRequest(revision=1), timeout=10)

    def grpc_says(self, **fields):
        """The `finished` of one greedy generation over gRPC."""
        self.count = getattr(self, "count", 0) + 1
        request = PB.GenerateRequest(request_id=f"{self.id()}-{self.count}", **fields)
        return [u for u in self.stub.Generate(request, timeout=30) if u.HasField("finished")][0].finished

    def complete(self, prompt=PROMPT, **fields):
        return self.openai.completions.create(model="tiny", prompt=prompt, **{"temperature": 0, "max_tokens": 40, **fields})

    def chat(self, **fields):
        return self.openai.chat.completions.create(model="tiny", messages=MESSAGES,
                                                   **{"temperature": 0, "max_tokens": 40, **fields})


GREEDY = PB.SamplingParams(temperature=0, max_tokens=40)


class SelfAggregation(Case):
    """tools/self_aggregation.py: a client of sessions and forks, and nothing of the server is made for it."""

    def aggregate(self, *options):
        command = [sys.executable, "tools/self_aggregation.py", self.address, "--max-tokens", "12", "--seed", "5", *options]
        ended = subprocess.run(command, input=PROMPT, text=True, capture_output=True, timeout=60)
        self.assertEqual(ended.returncode, 0, ended.stderr)
        return json.loads(ended.stdout)["rounds"]

    def test_later_rounds_read_under_compaction_what_earlier_ones_wrote(self):
        options = ("--population", "3", "--aggregate", "2", "--rounds", "3", "--budget", "48", "--window", "24")
        rounds = self.aggregate(*options)
        self.assertEqual([len(answers) for answers in rounds], [3, 3, 3])
        self.assertEqual({len(a["read"]) for a in rounds[0]}, {0})
        self.assertEqual({len(a["read"]) for answers in rounds[1:] for a in answers}, {2})
        self.assertEqual({a["events"] > 0 for a in rounds[0]}, {False})
        self.assertEqual({a["events"] > 0 for answers in rounds[1:] for a in answers}, {True})
        self.assertEqual(len({tuple(a["ids"]) for answers in rounds for a in answers}), 9)
        self.assertEqual(self.aggregate(*options), rounds)
        self.assertEqual(self.info().load.sessions, 0)


class Models(Case):
    def test_the_model_goes_by_the_name_of_the_run(self):
        self.assertEqual([m.id for m in self.openai.models.list()], ["tiny"])
        self.assertEqual(self.openai.models.retrieve("tiny").max_model_len, 512)
        with self.assertRaises(openai.NotFoundError):
            self.openai.models.retrieve("gpt-4")


class Completions(Case):
    def test_the_text_is_that_of_grpc(self):
        over_grpc = self.grpc_says(prompt_text=PROMPT, sampling=GREEDY)
        answer = self.complete()
        self.assertEqual(answer.choices[0].text, over_grpc.text)
        self.assertNotEqual(answer.choices[0].text, "")
        sampled = len(over_grpc.rollout.tokens) - over_grpc.rollout.prompt_tokens
        self.assertEqual((answer.usage.prompt_tokens, answer.usage.completion_tokens), (len(PROMPT), sampled))
        self.assertEqual(self.complete(prompt=[ord(c) for c in PROMPT]).choices[0].text, over_grpc.text)
        self.assertNotEqual(self.complete(prompt="Another").choices[0].text, over_grpc.text)

    def test_a_stream_is_the_whole_in_pieces(self):
        long = {"max_tokens": 400, "extra_body": {"ignore_eos": True}}
        whole = self.complete(**long)
        chunks = list(self.complete(stream=True, stream_options={"include_usage": True}, **long))
        self.assertEqual("".join(c.choices[0].text for c in chunks[:-1]), whole.choices[0].text)
        self.assertGreater(len(chunks), 10)  # tokens that were drawn before the acceptance come as one
        self.assertEqual([c.choices[0].finish_reason for c in chunks[-3:-1]], [None, whole.choices[0].finish_reason])
        self.assertEqual((chunks[-1].choices, chunks[-1].usage), ([], whole.usage))

    def test_several_prompts_and_choices_keep_their_order(self):
        one, other = self.complete(), self.complete(prompt="Another")
        both = self.complete(prompt=[PROMPT, "Another"], n=2)
        self.assertEqual([c.index for c in both.choices], [0, 1, 2, 3])
        self.assertEqual([c.text for c in both.choices], [one.choices[0].text] * 2 + [other.choices[0].text] * 2)

    def test_a_seed_fixes_the_draws_and_without_one_they_differ(self):
        def texts(**fields):
            return [c.text for c in self.complete(temperature=1, n=3, **fields).choices]
        self.assertEqual(texts(seed=3), texts(seed=3))
        self.assertEqual(len(set(texts(seed=3))), 3)
        self.assertNotEqual(texts(), texts())

    def test_logprobs_are_those_of_grpc(self):
        rollout = self.grpc_says(prompt_text=PROMPT, sampling=GREEDY).rollout
        choice = self.complete(logprobs=2).choices[0]
        self.assertEqual(choice.logprobs.token_logprobs, list(rollout.logprobs[rollout.prompt_tokens:]))
        self.assertEqual(len(choice.logprobs.tokens), len(choice.logprobs.top_logprobs))
        for token, logprob, top in zip(choice.logprobs.tokens, choice.logprobs.token_logprobs, choice.logprobs.top_logprobs):
            self.assertEqual(top[token], max(top.values()))  # greedy
            self.assertEqual((top[token], len(top)), (logprob, 2))

    def test_a_stop_string_ends_the_text_before_it(self):
        text = self.complete().choices[0].text
        stop = text[10:12]
        answer = self.complete(stop=[stop]).choices[0]
        self.assertEqual((answer.text, answer.finish_reason), (text[:text.index(stop)], "stop"))
        self.assertEqual(self.complete(extra_body={"ignore_eos": True}).choices[0].finish_reason, "length")

    def test_echo_brings_the_prompt_back(self):
        self.assertEqual(self.complete(echo=True).choices[0].text, PROMPT + self.complete().choices[0].text)

    def test_compaction_can_be_asked_for_and_is_told(self):
        policy = PB.GenerateRequest().context
        policy.kv_budget.budget, policy.kv_budget.window = CONTEXT["budget"], CONTEXT["window"]
        rollout = self.grpc_says(prompt_text=PROMPT, sampling=GREEDY, context=policy).rollout
        self.assertGreaterEqual(len(rollout.events), 2)
        for stream in (False, True):
            answer = self.complete(stream=stream, extra_body={"context": CONTEXT})
            told = (list(answer)[-1] if stream else answer).choices[0].palimpsest
            self.assertEqual(told["policy_version"], 1)
            self.assertEqual([e["digest"] for e in told["events"]], [e.digest for e in rollout.events])
        self.assertFalse(hasattr(self.complete().choices[0], "palimpsest"))


class UnderTls(Case):
    """The same two ways with the certificate of a client, by other people's implementations of TLS."""
    TLS = True

    def test_a_client_is_answered_whole_and_streamed(self):
        over_grpc = self.grpc_says(prompt_text=PROMPT, sampling=GREEDY)
        self.assertEqual(self.complete().choices[0].text, over_grpc.text)
        # Tokens that wait for a writer go out as one piece: only of many can one expect several pieces.
        many = PB.SamplingParams(temperature=0, max_tokens=400)
        pieces = [chunk.choices[0].text for chunk in self.complete(stream=True, max_tokens=400)]
        self.assertGreater(len(pieces), 5)
        self.assertEqual("".join(pieces), self.grpc_says(prompt_text=PROMPT, sampling=many).text)

    def test_another_role_is_refused_by_both(self):
        env = openai.OpenAI(base_url=self.base, api_key="none", max_retries=0, timeout=30, http_client=self.http_as("env"))
        with self.assertRaises(openai.PermissionDeniedError):
            env.models.list()
        own = (self.run_folder / "tls/env.pem").read_bytes()
        ca = (self.run_folder / "tls/ca.pem").read_bytes()
        with grpc.secure_channel(self.address, grpc.ssl_channel_credentials(ca, own, own)) as channel:
            with self.assertRaises(grpc.RpcError) as refused:
                PB_GRPC.InferenceServiceStub(channel).Drain(PB.InferenceServiceDrainRequest(), timeout=10)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.PERMISSION_DENIED)
        self.assertIn("role env may not call /palimpsest.v1.InferenceService/Drain", refused.exception.details())

    def test_only_the_orchestrator_may_drain(self):
        with self.assertRaises(grpc.RpcError) as refused:
            self.stub.Drain(PB.InferenceServiceDrainRequest(), timeout=10)
        self.assertEqual(refused.exception.code(), grpc.StatusCode.PERMISSION_DENIED)

    def test_both_examples_get_through(self):
        tls = str(self.run_folder / "tls")
        for command in ([EXAMPLE, self.address, PROMPT, tls],
                        [sys.executable, "examples/generate.py", self.address, PROMPT, "--tls", tls]):
            said = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60).stdout
            self.assertIn(" events\n", said)


class Chat(Case):
    def test_a_conversation_is_that_of_grpc_whole_and_streamed(self):
        request = PB.GenerateRequest()
        for message in MESSAGES:
            request.prompt_chat.messages.add(**message)
        over_grpc = self.grpc_says(prompt_chat=request.prompt_chat, sampling=GREEDY)
        whole = self.chat()
        self.assertEqual(whole.choices[0].message.content, over_grpc.text)
        self.assertEqual(whole.choices[0].message.role, "assistant")
        self.assertEqual(whole.usage.prompt_tokens, over_grpc.rollout.prompt_tokens)
        chunks = list(self.chat(stream=True))
        self.assertEqual(chunks[0].choices[0].delta.role, "assistant")
        self.assertEqual("".join(c.choices[0].delta.content or "" for c in chunks), over_grpc.text)
        self.assertEqual(chunks[-1].choices[0].finish_reason, whole.choices[0].finish_reason)

    def test_an_answer_can_be_sent_back(self):
        answer = self.chat().choices[0].message
        more = self.openai.chat.completions.create(
            model="tiny", max_completion_tokens=5,
            messages=[*MESSAGES, answer, {"role": "user", "content": [{"type": "text", "text": "and?"}]}])
        self.assertGreater(more.usage.prompt_tokens, len(answer.content))

    def test_logprobs_spell_the_answer(self):
        choice = self.chat(logprobs=True, top_logprobs=3).choices[0]
        spelled = b"".join(bytes(t.bytes) for t in choice.logprobs.content if not t.token.startswith("<|"))
        self.assertEqual(spelled.decode(), choice.message.content)
        for token in choice.logprobs.content:
            self.assertEqual(token.top_logprobs[0].token, token.token)  # greedy
            self.assertEqual(len(token.top_logprobs), 3)

    def test_many_at_once_say_what_one_says(self):
        async def ask():
            async with openai.AsyncOpenAI(base_url=self.base, api_key="none", timeout=60) as client:
                return await asyncio.gather(*(client.chat.completions.create(
                    model="tiny", messages=MESSAGES, temperature=0, max_tokens=8) for _ in range(24)))
        alone = self.chat(max_tokens=8).choices[0].message.content
        self.assertEqual({a.choices[0].message.content for a in asyncio.run(ask())}, {alone})


class Refusals(Case):
    def refused(self, call, **fields):
        with self.assertRaises(openai.BadRequestError) as caught:
            call(**fields)
        return caught.exception.param, caught.exception.body["message"]

    def test_a_field_that_is_unknown_wrong_or_not_served_is_named(self):
        for call in (self.complete, self.chat):
            with self.subTest(call.__name__):
                self.assertEqual(self.refused(call, extra_body={"bugdet": 3})[0], "bugdet")
                self.assertEqual(self.refused(call, top_p=3)[0], "top_p")
                self.assertEqual(self.refused(call, n=0)[0], "n")
                self.assertEqual(self.refused(call, extra_body={"stop_token_ids": [-1]})[0], "stop_token_ids[0]")
                self.assertEqual(self.refused(call, logit_bias={"999": 1})[1].split()[0][:10], "logit_bias")
                param, message = self.refused(call, extra_body={"context": {**CONTEXT, "budget": 17}})
                self.assertTrue(param.startswith("context") and "17" in message, message)
        self.assertEqual(self.refused(self.complete, prompt="")[0], "prompt")
        self.assertEqual(self.refused(self.complete, best_of=2)[0], "best_of")
        tool = {"type": "function", "function": {"name": "f"}}
        self.assertEqual(self.refused(self.chat, tools=[tool])[0], "tools")

    def test_an_unknown_model_and_path_are_not_found_and_a_large_body_is_too_large(self):
        with self.assertRaises(openai.NotFoundError):
            self.openai.completions.create(model="gpt-4", prompt="a")
        with self.assertRaises(openai.NotFoundError) as caught:
            self.openai.embeddings.create(model="tiny", input="a")
        self.assertEqual(caught.exception.body["code"], "not_found")
        with self.assertRaises(openai.APIStatusError) as caught:
            self.complete(prompt="a" * (2 << 20))
        self.assertEqual(caught.exception.status_code, 413)


class Leaving(Case):
    LONG = {"n": 200, "max_tokens": 480, "extra_body": {"ignore_eos": True}}

    def cancelled(self):
        cancelled = 0
        for port in re.findall(r'"metrics_port":\s*"?(\d+)', self.log.read_text()):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                found = re.search(r'palimpsest_samples_total\{.*outcome="cancelled".*\} (\d+)', page.read().decode())
            cancelled += int(found[1]) if found else 0
        return cancelled

    def freed_after(self, leave):
        before = self.cancelled()
        leave()
        eventually(lambda: self.cancelled() - before == self.LONG["n"], seconds=5)
        eventually(lambda: self.info().load.running == 0, seconds=5)

    def test_a_client_that_leaves_a_stream_frees_its_place(self):
        def leave():
            with self.complete(stream=True, **self.LONG) as stream:
                next(iter(stream))
        self.freed_after(leave)

    def test_a_client_that_stops_waiting_frees_its_place(self):
        def leave():
            with self.assertRaises(openai.APITimeoutError):
                self.openai.with_options(timeout=0.3).completions.create(model="tiny", prompt=PROMPT, **self.LONG)
        self.freed_after(leave)


class CompletionsOfAFleet(Completions):
    """What one replica says, two behind a router say, by the router's door; so with the next three."""
    FLEET = True


class ChatOfAFleet(Chat):
    FLEET = True


class RefusalsOfAFleet(Refusals):
    FLEET = True


class LeavingAFleet(Leaving):
    FLEET = True


class AFleetUnderTls(UnderTls):
    FLEET = True


class TheEndOfAFleetsDoor(Case):
    FLEET = True

    def test_a_replica_that_dies_is_not_missed_and_the_router_takes_its_addresses_back(self):
        said = self.complete().choices[0].text
        first = int((self.run_folder / "addresses/inference-0").read_text().split()[-1])
        os.kill(first, signal.SIGKILL)
        for prompt in (PROMPT, "Another", "A third", "A fourth"):
            self.assertNotEqual(self.complete(prompt=prompt).choices[0].text, "")
        self.assertEqual(self.complete().choices[0].text, said)
        self.daemon.terminate()
        self.assertEqual(self.daemon.wait(timeout=20), 0, self.log.read_text())
        left = {path.name for path in (self.run_folder / "addresses").iterdir()}
        self.assertEqual(left & {"router-0", "router_http-0"}, set())


class Grpc(Case):
    def raw(self, method, request):
        call = self.channel.stream_stream(method)
        return next(call(iter([request]), timeout=10))

    def test_health_and_reflection_are_there(self):
        check = self.channel.unary_unary("/grpc.health.v1.Health/Check")
        self.assertEqual(check(b"", timeout=10), b"\x08\x01")  # status: SERVING
        # list_services: "*" is field 7
        listed = self.raw("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", b"\x3a\x01*")
        self.assertIn(b"palimpsest.v1.InferenceService", listed)

    def test_both_examples_stream_the_same_generation(self):
        def output(*command):
            done = subprocess.run([*command, self.address, PROMPT], capture_output=True, timeout=60)
            self.assertEqual(done.returncode, 0, done.stderr.decode())
            return done.stdout
        said = output(EXAMPLE)
        self.assertEqual(output(sys.executable, "examples/generate.py"), said)
        events = re.findall(rb"<\d+\.\.\d+ compacted at \d+>", said)
        self.assertGreaterEqual(len(events), 2)
        self.assertTrue(said.endswith(b"\n%d events\n" % len(events)))


class TheEnd(Case):
    def test_sigterm_closes_the_door_and_takes_the_addresses_back(self):
        self.daemon.terminate()
        self.assertEqual(self.daemon.wait(timeout=20), 0, self.log.read_text())
        self.assertEqual(list((self.run_folder / "addresses").iterdir()), [])
        with self.assertRaises(openai.APIConnectionError):
            self.complete()


if __name__ == "__main__":
    del sys.argv[1:4]
    unittest.main()
