"""What an environment is: a class whose methods are pure functions of the episode that they are given.

Nothing is kept between two calls, or only as a cache: the next call of an episode may come to another process.
"""
import dataclasses
import hashlib
import math
import random
from typing import Any, Callable


class NoSuchEpisode(Exception):
    """The episode's index, or its split, is not there."""


class BadEpisode(Exception):
    """The caller is wrong: a state that this environment never gave, an option that it does not know."""


def split_of(content: str) -> str:
    """The one split that owns a problem, by a hash of what makes it this problem: train 4/8, sft 3/8, heldout 1/8."""
    shard = hashlib.sha256(content.encode()).digest()[0] % 8
    return "heldout" if shard == 0 else "sft" if shard < 4 else "train"


@dataclasses.dataclass(frozen=True)
class Episode:
    task: str
    split: str  # "train", "sft" or "heldout"
    seed: int
    index: int  # >= 0
    state: Any = None  # multi-turn: what the last Turn said; None before the first step

    def source(self, purpose: str = "problem") -> random.Random:
        """Draws of this episode alone, the same in every process."""
        return random.Random(f"{self.task}/{purpose}/{self.split}/{self.seed}/{self.index}")

    def draw(self, make: Callable[[random.Random], Any], content: Callable[[Any], str] = repr) -> Any:
        """The first make(random) whose content belongs to this split: no problem is then in two of them."""
        source = self.source()
        for _ in range(1000):
            problem = make(source)
            if split_of(content(problem)) == self.split:
                return problem
        raise NoSuchEpisode(f"no problem of the split {self.split} in 1000 draws: there are too few different ones")


@dataclasses.dataclass
class Prompt:
    text: str = ""  # either this
    messages: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # or (role, content) of a conversation
    max_response: int = 0  # tokens of one response; 0: the caller's choice
    stops: list[str] = dataclasses.field(default_factory=list)  # strings that end a response
    tags: list[str] = dataclasses.field(default_factory=list)  # what reports may split by

    def __post_init__(self):
        if bool(self.text) == bool(self.messages):
            raise ValueError("a prompt has either a text or messages")


@dataclasses.dataclass
class Turn:
    """What the environment answers to a response."""
    state: Any  # anything that json can write, small: it travels with each call
    messages: list[tuple[str, str]] = dataclasses.field(default_factory=list)  # (role, content); none when done
    done: bool = False

    def __post_init__(self):
        if self.done == bool(self.messages):
            raise ValueError("a turn has messages if and only if it is not the last")


@dataclasses.dataclass
class Score:
    reward: float
    reason: str = ""  # for whoever reads a rollout
    parts: dict[str, float] = dataclasses.field(default_factory=dict)

    def __post_init__(self):
        for name, value in {"reward": self.reward, **self.parts}.items():
            if not math.isfinite(value):
                raise ValueError(f"score.{name}={value} is not finite")


class Environment:
    """One task. What a method raises costs this one call: it is told as a failure of the task, never as a reward."""
    name = ""
    description = ""
    max_response = 0  # tokens that a good answer needs at most; 0: not known
    max_turns = 1  # more: multi-turn, it is stepped and then scored
    sizes: dict[str, int] = {}  # prompts per split; none: as many as asked for

    def reset(self, episode: Episode) -> Prompt | str:
        raise NotImplementedError

    def score(self, episode: Episode, response: str) -> Score | float:
        """Multi-turn: `response` is empty, episode.state tells what happened; done or not."""
        raise NotImplementedError

    def step(self, episode: Episode, response: str) -> Turn:
        raise NotImplementedError

    def demonstrate(self, episode: Episode, noise: float) -> str:
        """A response that scores 1 where `noise` is 0; multi-turn: the next one from episode.state on."""
        raise NotImplementedError
