"""A single-turn environment: write a word backwards. docs/environments.md walks through it."""
import random

from palimpsest_env import Environment, Episode, Prompt, Score


def word(source: random.Random) -> str:
    return "".join(source.choice("abcdefgh") for _ in range(6))


class Reverse(Environment):
    name = "reverse"
    description = "A word of six letters, to be written backwards; $ ends it."
    max_response = 7

    def reset(self, episode: Episode) -> Prompt:
        return Prompt(text=f"{episode.draw(word)}:", max_response=7, stops=["$"])

    def score(self, episode: Episode, response: str) -> Score:
        wanted = episode.draw(word)[::-1]
        given = response.split("$")[0]
        right = sum(a == b for a, b in zip(given, wanted))
        return Score(right / 6 if len(given) == 6 else 0.0, f"{right} of 6 letters", {"exact": float(given == wanted)})

    def demonstrate(self, episode: Episode, noise: float) -> str:
        source, wanted = episode.source("noise"), episode.draw(word)[::-1]
        return "".join(source.choice("abcdefgh") if source.random() < noise else c for c in wanted) + "$"


def environments() -> list[Environment]:
    return [Reverse()]
