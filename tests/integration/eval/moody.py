"""An environment of the test: it judges by length, and fails on one prompt while a file says how."""
import os
import pathlib

from palimpsest_env import Environment, Prompt, Score


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


def environments(mood):
    return [make(pathlib.Path(mood)) for make in (Moody, Plain, Chatty)]
