"""An environment of the test: it judges by length, and fails on one prompt while a file says how."""
import os
import pathlib

from palimpsest_env import Environment, Prompt, Score, Turn


class Moody(Environment):
    name = "moody"
    max_response = 30

    def __init__(self, mood):
        self.mood = mood

    def reset(self, episode):
        return Prompt(text=f"question {episode.index:02}:", max_response=30, tags=["even"] if episode.index % 2 == 0 else [])

    def score(self, episode, response):
        mood = self.mood.read_text() if self.mood.exists() and episode.index == 1 else ""
        if mood == "raise":
            raise ValueError("not today")
        if mood == "die":
            os._exit(1)
        return Score(1.0 if len(response) % 2 else 0.5, "by length", {})


class Plain(Moody):
    name = "plain"

    def score(self, episode, response):
        return Score(0.25, "always", {})


class Chatty(Plain):
    name = "chatty"

    def reset(self, episode):
        return Prompt(messages=[("user", f"q{episode.index}")])


class Dialogue(Moody):
    """Three turns, or four; the reward is a quarter of their number."""
    name = "dialogue"
    max_response = 6
    max_turns = 5

    def reset(self, episode):
        return Prompt(text=f"talk {episode.index:02}:", max_response=6)

    def step(self, episode, response):
        if self.mood.exists() and episode.index == 1:
            raise ValueError("not today")
        said = (episode.state or []) + [response]
        if len(said) == 3 + episode.index % 2:
            return Turn(said, done=True)
        return Turn(said, [("user", f"<{len(said)}>")])

    def score(self, episode, response):
        assert response == ""
        return Score(len(episode.state or []) / 4, "turns", {})


def environments(mood):
    return [make(pathlib.Path(mood)) for make in (Moody, Plain, Chatty, Dialogue)]
