"""Environments that do all that one must not do; the response says what. For workers_test."""
import os
import signal
import sys
import time

from palimpsest_env import Environment, Episode, Score

hoard = []


class Wicked(Environment):
    name = "wicked"

    def reset(self, episode: Episode) -> str:
        if episode.index == 13:
            raise LookupError("no luck")
        return f"prompt {episode.index}"

    def score(self, episode: Episode, response: str):
        if response == "raise":
            return 1 / 0
        if response == "library":
            raise NotImplementedError("as sympy does")
        if response == "hang":
            time.sleep(1000)
        if response == "leak":
            while True:
                hoard.append(bytearray(50 << 20))
        if response == "print":
            print("\x00\x00\x00\x05rubbish" * 1000, flush=True)
            os.write(2, b"\xff\xfe" * 70000)
        if response == "write":
            for fd in range(3, 64):  # whatever is open, our socket among it
                try:
                    os.write(fd, b"\x00\x00\x00\x02{}")
                except OSError:
                    pass
        if response == "exit":
            os.write(2, b"\xff\xfe bye")
            sys.exit(0)
        if response == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        if response == "nan":
            return float("nan")
        if response == "text":
            return "a lot"
        if response == "surrogate":
            return Score(0.5, "\ud800")
        if response == "recurse":
            return self.score(episode, response)
        return 1.0


def environments():
    return [Wicked()]
