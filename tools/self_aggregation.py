#!/usr/bin/env python3
"""Recursive self-aggregation over sessions: K answers to a prompt, then T - 1 rounds in which each of K new answers has read k
of the last round's, all under one context policy, so that what was read is compacted as any other text.

A client as anybody could write it: one session holds the prompt, every answer is a fork of it, and candidates go in as the
tokens that came out. Prints JSON: {"rounds": [[{"text", "ids", "read", "events"}]]}.

  self_aggregation.py HOST:PORT --population 4 --aggregate 2 --rounds 2 --max-tokens 64 --budget 96 --window 48 < prompt
"""
import argparse
import concurrent.futures
import json
import pathlib
import random
import sys
import uuid

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parent.parent / "examples"))
from generate import open_channel, stubs  # noqa: E402

CALL_SECONDS = 600


class Fleet:
    """The calls of one replica, as this client needs them."""

    def __init__(self, channel, pb, pb_grpc):
        self.pb, self.stub = pb, pb_grpc.InferenceServiceStub(channel)

    def tokenize(self, text):
        return list(self.stub.Tokenize(self.pb.TokenizeRequest(text=text), timeout=CALL_SECONDS).ids)

    def create(self, prompt, context):
        request = self.pb.CreateSessionRequest(request_id=str(uuid.uuid4()), prompt_ids=prompt, context=context)
        return self.stub.CreateSession(request, timeout=CALL_SECONDS).session

    def fork(self, session_id, seeds):
        request = self.pb.ForkSessionRequest(request_id=str(uuid.uuid4()), session_id=session_id, forks=len(seeds),
                                             seeds=seeds)
        return list(self.stub.ForkSession(request, timeout=CALL_SECONDS).sessions)

    def answer(self, session, new_ids, sampling):
        """One step of the session; its last message."""
        request = self.pb.StepSessionRequest(request_id=str(uuid.uuid4()), session_id=session.session_id,
                                             expected_tokens=session.tokens, new_ids=new_ids, sampling=sampling)
        *_, last = self.stub.StepSession(request, timeout=CALL_SECONDS)
        if last.WhichOneof("update") == "error":
            raise RuntimeError(last.error.message)
        return last.finished

    def delete(self, session_id):
        self.stub.DeleteSession(self.pb.DeleteSessionRequest(session_id=session_id), timeout=CALL_SECONDS)


def run_round(fleet, base, chosen, candidates, words, args, number):
    """K new answers, decoded together; chosen[i] names those of the last round that the i-th reads."""
    forks = fleet.fork(base.session_id, [args.seed * 1_000_003 + number * 1009 + i for i in range(args.population)])
    sampling = fleet.pb.SamplingParams(temperature=args.temperature, max_tokens=args.max_tokens)

    def one(i):
        new_ids = []
        for place, read in enumerate(chosen[i]):
            new_ids += fleet.tokenize(words["candidate"].replace("{number}", str(place + 1))) + candidates[read]["ids"]
        if chosen[i]:
            new_ids += words["instruction"]
        finished = fleet.answer(forks[i], new_ids, sampling)
        fleet.delete(forks[i].session_id)
        rollout = finished.rollout
        ids = list(rollout.tokens[base.tokens + len(new_ids):])
        return {"text": finished.text, "ids": ids, "read": chosen[i], "events": len(rollout.events)}

    with concurrent.futures.ThreadPoolExecutor(args.population) as pool:
        return list(pool.map(one, range(args.population)))


def main(args):
    pb, pb_grpc = stubs()
    from palimpsest.v1 import context_pb2
    context = context_pb2.ContextPolicy()
    if args.budget:
        context.kv_budget.budget = args.budget
        context.kv_budget.window = args.window
        if args.keep_ratio is not None:
            context.kv_budget.keep_ratio = args.keep_ratio
    draw = random.Random(args.seed)
    with open_channel(args.address, args.tls) as channel:
        fleet = Fleet(channel, pb, pb_grpc)
        base = fleet.create(fleet.tokenize(sys.stdin.read()), context)
        words = {"candidate": args.candidate, "instruction": fleet.tokenize(args.instruction)}
        rounds = []
        for number in range(args.rounds):
            chosen = [sorted(draw.sample(range(args.population), args.aggregate)) if rounds else []
                      for _ in range(args.population)]
            rounds.append(run_round(fleet, base, chosen, rounds[-1] if rounds else [], words, args, number))
        fleet.delete(base.session_id)
    json.dump({"rounds": rounds}, sys.stdout)
    print()


def parse():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("address")
    parser.add_argument("--tls", help="folder with ca.pem and client.pem; without it in clear text")
    parser.add_argument("--population", type=int, default=4, help="K, answers of a round")
    parser.add_argument("--aggregate", type=int, default=2, help="k, how many of them each answer of the next reads")
    parser.add_argument("--rounds", type=int, default=2, help="T")
    parser.add_argument("--max-tokens", type=int, default=64)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=int, default=0, help="slots; 0: nothing is compacted")
    parser.add_argument("--window", type=int, default=0, help="slots of one event")
    parser.add_argument("--keep-ratio", type=float, help="of a window; absent: the server's default")
    parser.add_argument("--candidate", default="\n\nCandidate {number}:\n", help="stands before each answer that is read")
    parser.add_argument("--instruction", default="\n\nA better answer, from these:\n")
    args = parser.parse_args()
    if args.aggregate > args.population:
        parser.error(f"--aggregate {args.aggregate} is more than --population {args.population}")
    for name in ("population", "aggregate", "rounds", "max_tokens"):
        if getattr(args, name) < 1:
            parser.error(f"--{name.replace('_', '-')} {getattr(args, name)} is below 1")
    if not args.budget and (args.window or args.keep_ratio is not None):
        parser.error("--window and --keep-ratio say how --budget is kept, which is not given")
    return args


if __name__ == "__main__":
    main(parse())
