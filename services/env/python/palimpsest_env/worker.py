"""The worker's side of protos/palimpsest/v1/worker.proto: a frame in, a frame out, one after the other.

A frame is its length (4 bytes, big-endian) and a WorkerRequest or WorkerReply in protobuf's JSON. JSON, so that the
Python of an environment needs neither grpcio nor generated code that fits to its protobuf.
"""
import base64
import json
import os
import struct
import sys
import traceback

from palimpsest_env.environment import BadEpisode, Environment, Episode, NoSuchEpisode, Prompt, Score

SPLITS = {"SPLIT_TRAIN": "train", "SPLIT_SFT": "sft", "SPLIT_HELDOUT": "heldout"}


def episode_of(named: dict) -> Episode:
    state = base64.b64decode(named.get("state", ""))
    try:
        known = json.loads(state) if state else None
    except ValueError as error:
        raise BadEpisode(f"episode.state is not ours: {error}") from error
    return Episode(named.get("task", ""), SPLITS[named["split"]], int(named.get("seed", 0)), int(named.get("index", 0)), known)


def chat(messages: list[tuple[str, str]]) -> list[dict]:
    return [{"role": role, "content": content} for role, content in messages]


class Missing(Exception):
    """The environment does not have the method that was called."""


def has(environment: Environment, method: str) -> bool:
    """Whether the environment, by its class or by itself, has one of its own."""
    return getattr(getattr(environment, method), "__func__", None) is not getattr(Environment, method)


class Tasks:
    """Answers calls: the name of a call and its fields in, those of its answer out."""

    def __init__(self, environments: list[Environment]):
        self.by_name = {environment.name: environment for environment in environments}
        if "" in self.by_name or len(self.by_name) != len(environments) or not environments:
            raise ValueError(f"tasks need names, each its own: {[e.name for e in environments]}")

    def find(self, name: str, method: str) -> Environment:
        if name not in self.by_name:
            raise NoSuchEpisode(f"task {name!r} is not one of {sorted(self.by_name)}")
        environment = self.by_name[name]
        if not has(environment, method):
            raise Missing(f"{name} has no {method}")
        return environment

    def list_tasks(self, _):
        return {"tasks": [{
            "name": e.name, "description": e.description, "max_response": e.max_response,
            "multi_turn": e.max_turns > 1, "max_turns": e.max_turns if e.max_turns > 1 else 0,
            "demonstrates": has(e, "demonstrate"),
            **{f"{split}_size": size for split, size in e.sizes.items()},
        } for e in self.by_name.values()]}

    def reset(self, call):
        episode = episode_of(call)
        prompt = self.find(episode.task, "reset").reset(episode)
        if isinstance(prompt, str):
            prompt = Prompt(prompt)
        answer = {"tags": prompt.tags, "max_response": prompt.max_response, "stops": prompt.stops}
        return answer | ({"text": prompt.text} if prompt.text else {"chat": {"messages": chat(prompt.messages)}})

    def step(self, call):
        episode = episode_of(call["episode"])
        turn = self.find(episode.task, "step").step(episode, call.get("response_text", ""))
        state = base64.b64encode(json.dumps(turn.state).encode()).decode()
        return {"episode": {"state": state}, "messages": chat(turn.messages), "done": turn.done}

    def score(self, call):
        episode = episode_of(call["episode"])
        score = self.find(episode.task, "score").score(episode, call.get("response_text", ""))
        if not isinstance(score, Score):
            score = Score(float(score))
        parts = [{"name": name, "value": float(value)} for name, value in score.parts.items()]
        return {"reward": float(score.reward), "reason": score.reason, "parts": parts, "outcome": "OUTCOME_OK"}

    def demonstrate(self, call):
        episode = episode_of(call["episode"])
        return {"response_text": self.find(episode.task, "demonstrate").demonstrate(episode, call.get("answer_noise", 0.0))}


def describe(error: Exception) -> str:
    """What was raised and where, without this file's own frames."""
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error} ({os.path.basename(place.filename)}:{place.lineno})"


def encode(reply: dict) -> bytes:
    return json.dumps(reply, ensure_ascii=False, allow_nan=False).encode("utf-8", "replace")  # a lone surrogate becomes "?"


def answer(tasks: Tasks, request: dict) -> bytes:
    """A WorkerReply. Whatever an environment raises is an answer, too, unless the process has no memory left."""
    ident = request.pop("id", 0)
    (name, call), = request.items()
    kinds = {NoSuchEpisode: "NOT_FOUND", BadEpisode: "INVALID_ARGUMENT", Missing: "UNIMPLEMENTED"}
    if name == "demonstrate":  # of this episode there is none; anywhere else it is a library's failure
        kinds[NotImplementedError] = "UNIMPLEMENTED"
    try:
        return encode({"id": ident, name: getattr(tasks, name)(call)})
    except MemoryError:
        raise
    except Exception as error:
        kind = kinds.get(type(error), "TASK_FAILED")
        if kind == "TASK_FAILED":
            traceback.print_exc()
        return encode({"id": ident, "error": {"kind": f"WORKER_ERROR_KIND_{kind}", "message": describe(error)}})


def serve(tasks: Tasks, stream) -> None:
    """Until the other side closes `stream`."""
    while header := stream.read(4):
        frame = answer(tasks, json.loads(stream.read(struct.unpack(">I", header)[0])))
        sys.stdout.flush()
        stream.write(struct.pack(">I", len(frame)) + frame)
        stream.flush()
