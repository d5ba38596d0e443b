"""A multi-turn environment: find a number by "higher" and "lower". All that happened is in episode.state."""
import re

from palimpsest_env import Environment, Episode, Prompt, Score, Turn


class Guess(Environment):
    name = "guess"
    description = "Find a number from 1 to 1000 in at most ten guesses."
    max_turns = 10

    def secret(self, episode: Episode) -> int:
        return episode.draw(lambda source: source.randint(1, 1000))

    def reset(self, episode: Episode) -> Prompt:
        return Prompt(messages=[("user", "I think of a number from 1 to 1000. You have ten guesses; answer with a number.")])

    def step(self, episode: Episode, response: str) -> Turn:
        found = re.search(r"\d{1,4}", response)
        guesses = (episode.state or []) + [int(found[0]) if found else 0]
        wanted = self.secret(episode)
        if guesses[-1] == wanted or len(guesses) >= self.max_turns:
            return Turn(guesses, done=True)
        return Turn(guesses, [("user", "higher" if guesses[-1] < wanted else "lower")])

    def score(self, episode: Episode, response: str) -> Score:
        guesses = episode.state or []
        return Score(float(self.secret(episode) in guesses), f"guesses: {guesses}", {"guesses": len(guesses) / 10})


def environments() -> list[Environment]:
    return [Guess()]
