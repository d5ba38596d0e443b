"""An environment that gives a graded reward to any response, and one that misbehaves in a share of its calls.

Options of both: none for `letters`; `share`, `seed` and `count` make it misbehave. `count` is a file whose size is the
number of calls so far, over all processes and their lives: call n misbehaves by a draw of (seed, n), never by what the call is
about, so that a call that is repeated is another draw.
"""
import fcntl
import os
import random
import time

from palimpsest_env import Environment, Episode, Prompt, Score, Turn

WAYS = ("raise", "hang", "rubbish", "nonsense", "exit")


def word(source: random.Random) -> str:
    return "".join(source.choice("abcdefgh") for _ in range(11))


class Letters(Environment):
    name = "letters"
    max_response = 24

    def reset(self, episode: Episode) -> Prompt:
        return Prompt(text=f"{episode.draw(word)}:", max_response=24)

    def score(self, episode: Episode, response: str) -> Score:
        """The share of characters with an even code: any model gets some right, none all."""
        even = sum(ord(letter) % 2 == 0 for letter in response)
        return Score(even / max(1, len(response)), f"{even} of {len(response)}")


class Rounds(Environment):
    """As letters, in four responses; what the environment says hangs on all of them so far."""
    name = "rounds"
    max_response = 16
    max_turns = 4

    def reset(self, episode: Episode) -> Prompt:
        return Prompt(text=f"{episode.draw(word)}:", max_response=16)

    def step(self, episode: Episode, response: str) -> Turn:
        responses, even, letters = episode.state or (0, 0, 0)
        state = (responses + 1, even + sum(ord(letter) % 2 == 0 for letter in response), letters + len(response))
        done = state[0] == self.max_turns
        return Turn(state, [] if done else [("user", f",{state[1]}:")], done)

    def score(self, episode: Episode, response: str) -> Score:
        _, even, letters = episode.state
        return Score(even / max(1, letters), f"{even} of {letters}")


def way_of(seed: str, call: int, share: float) -> str:
    """How call number `call` misbehaves; empty for most."""
    draw = random.Random(f"{seed}/{call}")
    return draw.choice(WAYS) if draw.random() < share else ""


class Unruly(Letters):
    def __init__(self, share: str, seed: str, count: str):
        self.share, self.seed, self.count = float(share), seed, count

    def misbehave(self) -> object:
        """Does it, or answers what its caller is to answer; None where this call is a good one."""
        with open(self.count, "ab") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            call = os.fstat(file.fileno()).st_size
            file.write(b".")
        way = way_of(self.seed, call, self.share)
        if way == "raise":
            raise RuntimeError("not today")
        if way == "hang":
            time.sleep(3600)
        if way == "exit":
            os._exit(1)
        if way == "rubbish":
            for fd in range(3, 64):  # whatever is open, the socket to the daemon among it
                try:
                    os.write(fd, b"\x00\x00\x00\x07rubbish")
                except OSError:
                    pass
        return "nonsense" if way == "nonsense" else None

    def reset(self, episode: Episode) -> Prompt:
        return Prompt(text="") if self.misbehave() else super().reset(episode)

    def score(self, episode: Episode, response: str) -> Score:
        return self.misbehave() or super().score(episode, response)


def environments(**options):
    return [Unruly(**options)] if options else [Letters(), Rounds()]
