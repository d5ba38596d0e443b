"""`palimpsest generate` written a second time from sections 3 and 4 of the design: fp64, token by token, slow and plain.

Nothing here is shared with the C++ code, and nothing of it is run: events, windows, kept positions, reference ranges,
digests, draws and log-probabilities all come from the equations.
"""
import dataclasses
import importlib.util
import math
import pathlib

import numpy as np
from decoder import Decoder, Slot, softmax
import matching
import randomness


def sibling(path):
    spec = importlib.util.spec_from_file_location("context_golden", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


# The canonical record and its hash, made from the table of common/context/README.md.
LOG = sibling(pathlib.Path(__file__).parent.parent / "context" / "make.py")
PARAMETERS = dict(mu=1e-2, log_lower=-7.0, log_upper=7.0, reference_kind="queries", seed=0, holdout_every=0) | {
    "lambda": 1e-2}


@dataclasses.dataclass
class Policy:
    """What `--context` and `--set context.*` say, with the defaults of the design."""
    trigger: str  # kv_budget, segments
    window: int
    budget: int = 0
    every: int = 0
    keep_ratio: float = 0.25
    method: str = "attention_matching"
    reference_tokens: int = 128
    after_window: bool = False
    protect: int | None = None
    stack: bool = False
    parameters: dict = dataclasses.field(default_factory=dict)

    @staticmethod
    def of(trigger: str, settings: dict) -> "Policy":
        names = {f.name for f in dataclasses.fields(Policy)}
        mine = {k: v for k, v in settings.items() if k in names}
        chooser = "attention" if mine.get("method") == "evict" else "rms"
        given = {k: v for k, v in settings.items() if k not in names}
        return Policy(trigger, parameters=PARAMETERS | {"chooser": chooser} | given, **mine)

    def kept_count(self, slots: int) -> int:
        if self.method == "markovian":
            return 0
        share = math.floor(self.keep_ratio * slots)
        return share if self.method == "evict" else min(slots, max(1, share))

    def listens(self) -> bool:
        chooser = self.parameters["chooser"]
        return self.method == "attention_matching" or self.method == "evict" and (
            chooser == "attention" or self.carries())

    def carries(self) -> bool:
        return self.method != "markovian" and self.parameters["chooser"] in matching.CARRYING


@dataclasses.dataclass
class Block:
    begin: int
    end: int
    compact: bool


class OutOfRoom(Exception):
    """No window fits any more: the sequence ends with `length`."""


class Sequence:
    """The cache of one sequence, its blocks and its log."""

    def __init__(self, decoder: Decoder, policy: Policy, prompt: list[int]):
        self.decoder, self.policy, self.prompt = decoder, policy, len(prompt)
        self.tokens = list(prompt)
        self.processed = 0
        self.cache = [[[] for _ in range(decoder.kv_heads)] for _ in range(decoder.layers)]
        self.queries = [[] for _ in range(decoder.layers)]  # [position] -> [H, d]
        self.keys = [[] for _ in range(decoder.layers)]     # [position] -> [K, d]
        self.blocks: list[Block] = []
        self.carried = {head: {} for head in self.heads()}  # position -> what it has received at all events so far
        self.events: list[dict] = []
        self.digest, self.last_at = bytes(16), 0
        self.margin = math.inf  # of the closest choice so far, relative

    def heads(self):
        return [(layer, head) for layer in range(self.decoder.layers) for head in range(self.decoder.kv_heads)]

    def most_slots(self, begin, end) -> int:
        """Of any layer and KV head."""
        return max(len(self.slots(layer, head, begin, end)) for layer, head in self.heads())

    def slots(self, layer, head, begin, end) -> list[Slot]:
        return [slot for slot in self.cache[layer][head] if begin <= slot.position < end]

    def step(self):
        """An event if one is due, then the next token; returns its logits."""
        position = self.processed
        window = self.due()
        if window is not None:
            self.compact(*window)
        logits = self.decoder.step(self.tokens[position], position, self.cache, self.queries)
        for layer in range(self.decoder.layers):
            self.keys[layer].append(np.stack([slots[-1].key for slots in self.cache[layer]]))
        self.processed += 1
        if self.blocks and not self.blocks[-1].compact:
            self.blocks[-1].end = self.processed
        else:
            self.blocks.append(Block(position, self.processed, False))
        return logits

    def due(self) -> tuple[int, int] | None:
        """The window of an event that happens now."""
        policy, at = self.policy, self.processed
        if policy.trigger == "kv_budget":
            triggered = at > 0 and self.most_slots(0, at) >= policy.budget
        else:
            triggered = at > self.prompt and (at - self.prompt) % policy.every == 0
        if not triggered:
            return None
        window = self.find_window()
        if window is not None:
            counts = [len(self.slots(layer, head, *window)) for layer, head in self.heads()]
            if any(policy.kept_count(n) < n for n in counts):
                return window
        if policy.trigger == "kv_budget":
            raise OutOfRoom
        return None

    def find_window(self) -> tuple[int, int] | None:
        """From the first unprotected block that has a slot to the first end where some head has `window` slots."""
        policy = self.policy
        first = self.prompt if policy.protect is None else policy.protect
        begins = [max(b.begin, first) for b in self.blocks
                  if (b.begin >= first and not policy.stack if b.compact else b.end > first)
                  and self.most_slots(max(b.begin, first), b.end) > 0]
        if not begins:
            return None
        begin = begins[0]
        fences = [b.begin for b in self.blocks if policy.stack and b.compact and b.begin >= begin]
        for end in range(begin + 1, min([self.processed] + fences) + 1):
            cut = any(b.compact and b.begin < end < b.end for b in self.blocks)
            if not cut and self.most_slots(begin, end) >= policy.window:
                return begin, end
        return None

    def reference_range(self, end) -> list[int]:
        """The last reference_tokens positions, those behind the window only if asked for and if there are any."""
        at = self.processed
        if not self.policy.listens():
            return [0, 0]
        begin = max(0, at - self.policy.reference_tokens)
        behind = max(begin, end)
        return [behind if self.policy.after_window and behind < at else begin, at]

    def reference_queries(self, layer, head, positions, begin):
        """Post-RoPE queries of the head's group, keys, or normal draws, in the order of positions. [n, d]"""
        group, p = self.decoder.group, self.policy.parameters
        if p["reference_kind"] == "keys":
            return np.array([self.keys[layer][r][head] for r in positions])
        if p["reference_kind"] == "random":
            numbers = [(r - begin) * group + i for r in positions for i in range(group)]
            return np.array([randomness.normals(randomness.mix(p["seed"], "reference.random", layer, head, i),
                                                self.decoder.width) for i in numbers])
        return np.concatenate([self.queries[layer][r][head * group:(head + 1) * group] for r in positions])

    def compact(self, begin, end):
        """One event over [begin, end), in every layer and KV head."""
        event = dict(at=self.processed, window=[begin, end], method=self.policy.method,
                     reference=self.reference_range(end), parameters=self.policy.parameters)
        kept, measures = [], []
        for layer, head in self.heads():
            window = self.slots(layer, head, begin, end)
            new, measured = self.replacement(layer, head, window, event)
            kept.append([slot.position for slot in new])
            measures.append(measured)
            self.cache[layer][head] = sorted(
                [s for s in self.cache[layer][head] if not begin <= s.position < end] + new, key=lambda s: s.position)
        self.blocks = ([Block(b.begin, min(b.end, begin), b.compact) for b in self.blocks if b.begin < begin]
                       + [Block(begin, end, True)]
                       + [Block(max(b.begin, end), b.end, b.compact) for b in self.blocks if b.end > end])
        event["digest"] = self.chain(event, kept)
        k = self.decoder.kv_heads
        event["kept"] = [kept[i:i + k] for i in range(0, len(kept), k)]
        event["quality"] = {name: float(np.mean([m[name] for m in measures])) for name in measures[0]}
        self.events.append(event)

    def stretches(self, begin, end, window):
        """(positions, slots) of what each block covers of [begin, end)."""
        parts = [(max(b.begin, begin), min(b.end, end)) for b in self.blocks]
        return [(last - first, sum(first <= slot.position < last for slot in window))
                for first, last in parts if first < last]

    def choose(self, layer, head, window, event, a, count):
        """Kept indices and the margin of the choice; what a slot has received goes with it."""
        chooser = self.policy.parameters["chooser"]
        if not self.policy.carries():
            return matching.choose(chooser, a, count)
        earlier = self.carried[layer, head]
        importance = np.array([matching.with_earlier(chooser, now, earlier.get(slot.position, 0.0))
                               for slot, now in zip(window, matching.received(chooser, a))])
        kept, margin = matching.choose_carried(chooser, importance, np.stack([slot.key for slot in window]),
                                               self.stretches(*event["window"], window), count)
        gone = {slot.position for slot in window}
        self.carried[layer, head] = {position: value for position, value in earlier.items() if position not in gone} | {
            window[j].position: importance[j] for j in kept}
        return kept, margin

    def replacement(self, layer, head, window, event):
        """The slots that stand for the window, and how well they do on the reference queries."""
        p, count, reference = self.policy.parameters, self.policy.kept_count(len(window)), event["reference"]
        if not self.policy.listens():
            return [window[j] for j in self.without_queries(layer, head, window, count)], {}
        every, begin = p["holdout_every"], reference[0]
        held = [r for r in range(*reference) if every and (r - begin) % every == every - 1]
        fitted = [r for r in range(*reference) if r not in held]

        def scores(positions):
            return matching.local_scores(self.reference_queries(layer, head, positions, begin), window,
                                         self.decoder.scale)

        s = scores(fitted)
        a = softmax(s)
        kept, margin = self.choose(layer, head, window, event, a, count)
        self.margin = min(self.margin, margin)
        values = np.stack([slot.value for slot in window])
        new_values, weights = values[kept], np.ones(count)
        if self.policy.method == "attention_matching":
            weights = matching.fit_weights(a[:, kept], p)
            x = softmax(s[:, kept] + np.log(weights))
            new_values = matching.fit_values(x, a @ values, values[kept], p)
        new = [window[j]._replace(value=new_values[i], bias=window[j].bias + math.log(weights[i]))
               for i, j in enumerate(kept)]
        measured = dict(zip(("mass_error", "output_error"), matching.errors(s, kept, weights, new_values, values)))
        if held:
            on_held = matching.errors(scores(held), kept, weights, new_values, values)
            measured |= dict(zip(("holdout_mass_error", "holdout_output_error"), on_held))
        return new, measured

    def without_queries(self, layer, head, window, count) -> list[int]:
        """Indices that recent, random and markovian keep."""
        p = self.policy.parameters
        if p["chooser"] == "random" and count > 0:
            seed = randomness.mix(p["seed"], "evict.random", layer)
            return matching.largest([randomness.uniform(seed, head, slot.position) for slot in window], count)[0]
        return list(range(len(window) - count, len(window)))

    def chain(self, event, kept) -> str:
        """Digest over the previous one, the tokens since its event and the canonical record."""
        record = LOG.record(event | event["parameters"] | {"kept": kept}, self.decoder.layers, self.decoder.kv_heads)
        ids = self.tokens[self.last_at:event["at"]]
        self.digest = LOG.xxh3_128(self.digest + b"".join(i.to_bytes(4, "little") for i in ids) + record)
        self.last_at = event["at"]
        return self.digest.hex()


def draw(logits, temperature, u):
    """Token, its log-probability, and how far the draw is from falling differently."""
    if temperature == 0:
        second, first = np.partition(logits, -2)[-2:]
        token = int(logits.argmax())
        return token, float(np.log(softmax(logits)[token])), float(first - second)
    probability = softmax(logits / temperature)
    steps = np.cumsum(probability)
    token = int(np.searchsorted(steps, u, side="right"))
    return token, float(np.log(probability[token])), float(np.abs(steps[:-1] - u).min())


def simulate(decoder: Decoder, prompt: list[int], policy: Policy, max_tokens: int, temperature: float, seed: int):
    """What `generate` should print (no stop ids), and the margins of the draws and of the choices."""
    sequence = Sequence(decoder, policy, prompt)
    logprobs, margin = [], math.inf
    try:
        while len(logprobs) < max_tokens and len(sequence.tokens) < decoder.max_position:
            logits = sequence.step()
            if sequence.processed < len(prompt):
                continue
            u = randomness.uniform(seed, 0, sequence.processed)
            token, logprob, gap = draw(logits, temperature, u)
            sequence.tokens.append(token)
            logprobs.append(logprob)
            margin = min(margin, gap)
    except OutOfRoom:
        pass
    out = dict(ids=sequence.tokens[len(prompt):], logprobs=logprobs, finish_reason="length", events=sequence.events)
    return out, margin, sequence.margin
