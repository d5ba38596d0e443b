"""reasoning-gym: the mixture rg-mix, its five tasks alone (rg-mix/arc_1d, ...), and any dataset as rg/NAME.

The heldout split of the mixture is the evaluation that its results were published with: with n = 300 and seed 42, 85
cryptarithm, 64 zebra, 62 sokoban, 45 countdown, 44 arc. Both scores are told: `strict` (1 and nothing less) and `half`
(at least 0.5). A cryptarithm is right or wrong here; up to release 0.1.24 about 30 % right letters gave 0.5.
"""
import functools
import hashlib
import random
import re

import reasoning_gym
from reasoning_gym.utils import SYSTEM_PROMPTS

from palimpsest_env import BadEpisode, Environment, Episode, NoSuchEpisode, Prompt, Score, split_of

# id: (dataset, configuration, pass@1 of the model that the weights 1 / pass@1 were made with)
MIXTURE = {
    "arc_1d": ("arc_1d", {}, 0.4016),
    "sokoban_hard": ("sokoban", {"min_boxes": 3, "max_boxes": 4, "max_w": 9, "max_h": 9}, 0.3101),
    "countdown_7": ("countdown", {"min_numbers": 7, "max_numbers": 7}, 0.30),
    "zebra_puzzles_7": ("zebra_puzzles", {"num_people": 7, "num_characteristics": 5}, 0.2510),
    "cryptarithm": ("cryptarithm", {}, 0.1882),
}
SPREAD = 256  # rg/NAME: entries looked at until one belongs to the split; all miss with p < 2e-15
FIRST_SEED = {"train": 2**65, "sft": 2**66}  # of generators; those of heldout are below 2**64 + 2**63


def extract_answer(response: str) -> str:
    """The first <answer>, else what follows the last </think>, else the last line that is not empty."""
    if found := re.search(r"<answer>(.*?)</answer>", response, re.DOTALL):
        return found[1].strip()
    if "</think>" in response:
        return response.rpartition("</think>")[2].strip()
    return next((line.strip() for line in reversed(response.splitlines()) if line.strip()), "")


def number(text: str) -> int:
    """29 bits of a hash."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:4], "big") >> 3


class ReasoningGym(Environment):
    """Draws of `members`, by their weights."""

    def __init__(self, name: str, members: dict, as_text: bool):
        self.name, self.members, self.as_text = name, members, as_text
        self.description = "reasoning-gym: " + ", ".join(members)
        self.entry = functools.lru_cache(maxsize=512)(self.make_entry)

    def pick(self, source: random.Random, count: int = 1) -> int:
        """The place of the last of `count` members drawn."""
        weights = [1 / pass_rate for _, _, pass_rate in self.members.values()]
        return source.choices(range(len(weights)), weights, k=count)[-1]

    def make_entry(self, split: str, seed: int, index: int):
        """(member, dataset, entry) of an episode. heldout as published; no generator's seed is in two splits."""
        if split == "heldout":
            place = self.pick(random.Random(seed), index + 1)
            first = seed + place + 1
        else:
            place = self.pick(random.Random(f"{self.name}/{split}/{seed}/{index}"))
            first = FIRST_SEED[split] + number(f"{self.name}/{seed}")
        member = list(self.members)[place]
        name, config, _ = self.members[member]
        dataset = reasoning_gym.create_dataset(name, seed=first, size=index + 1, **config)
        return member, dataset, dataset[index]

    def reset(self, episode: Episode) -> Prompt:
        member, _, entry = self.entry(episode.split, episode.seed, episode.index)
        if self.as_text:
            return Prompt(text=entry["question"].rstrip() + "\n", tags=[member])
        return Prompt(messages=[("system", SYSTEM_PROMPTS["default"]), ("user", entry["question"])], tags=[member])

    def score(self, episode: Episode, response: str) -> Score:
        _, dataset, entry = self.entry(episode.split, episode.seed, episode.index)
        answer = extract_answer(response)
        reward = dataset.score_answer(answer, entry)
        if reward < 0.5:
            reward = max(reward, dataset.score_answer(response, entry))
        parts = {"strict": float(reward == 1), "half": float(reward >= 0.5)}
        return Score(float(reward), f"answer {answer[:80]!r}", parts)

    def demonstrate(self, episode: Episode, noise: float) -> str:
        if noise:
            raise BadEpisode(f"answer_noise={noise}: demonstrations of {self.name} are exact only")
        _, dataset, entry = self.entry(episode.split, episode.seed, episode.index)
        if entry["answer"] is None or dataset.score_answer(entry["answer"], entry) != 1:
            raise NotImplementedError(f"reasoning-gym has no right answer for this entry of {self.name}")
        return f"<answer>{entry['answer']}</answer>"


class Dataset(ReasoningGym):
    """One dataset with its default configuration. Its splits are disjoint by content: some have few different entries."""

    def __init__(self, name: str, as_text: bool):
        super().__init__(f"rg/{name}", {name: (name, {}, 1.0)}, as_text)

    def make_entry(self, split: str, seed: int, index: int):
        (name, _, _), = self.members.values()
        dataset = reasoning_gym.create_dataset(name, seed=number(f"{self.name}/{split}/{seed}"), size=SPREAD * (index + 1))
        for i in range(SPREAD * index, SPREAD * (index + 1)):
            entry = dataset[i]
            if split_of(entry["question"]) == split:
                return name, dataset, entry
        raise NoSuchEpisode(f"{self.name}: no entry for {split} in {SPREAD} draws, it has too few different ones")


def environments(prompt: str = "chat", datasets: str = "") -> list[Environment]:
    """`prompt`: chat, or text for models without a template. `datasets`: names, separated by commas."""
    if prompt not in ("chat", "text"):
        raise ValueError(f"prompt={prompt!r} is neither chat nor text")
    as_text = prompt == "text"
    mixture = [ReasoningGym("rg-mix", MIXTURE, as_text)]
    alone = [ReasoningGym(f"rg-mix/{name}", {name: member}, as_text) for name, member in MIXTURE.items()]
    return mixture + alone + [Dataset(name.strip(), as_text) for name in datasets.split(",") if name.strip()]
