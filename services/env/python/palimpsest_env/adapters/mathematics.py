"""Mathematics from JSON-lines files of questions and answers, judged as AIME integers or by math-verify."""
import json
import pathlib
import random
import re

import math_verify

from palimpsest_env import BadEpisode, Environment, Episode, NoSuchEpisode, Prompt, Score

INSTRUCTION = "Think step by step. Give the final answer between <answer> and </answer>."
MARKED = (r"<answer>(.*?)</answer>", r"\\boxed\{\s*(\d+)\s*\}")


def read(path: str) -> list[tuple[str, str]]:
    """Lines {"question": .., "answer": ..}; `problem` and `solution` are not guessed at."""
    rows = []
    for number, line in enumerate(pathlib.Path(path).read_text().splitlines(), 1):
        if not line.strip():
            continue
        row = json.loads(line)
        if not isinstance(row.get("question"), str) or "answer" not in row:
            raise ValueError(f"{path}:{number}: a line needs a text `question` and an `answer`")
        rows.append((row["question"], str(row["answer"])))
    if not rows:
        raise ValueError(f"{path} has no questions")
    return rows


def final_part(response: str) -> str:
    return response.rpartition("</think>")[2]


def integer(response: str) -> int | None:
    """AIME: the one whole number from 0 to 999 in the last mark, else the last one anywhere."""
    whole = r"(?<![\d.,/-])\d{1,3}(?![\d/]|[.,]\d)"
    for pattern in MARKED:
        if found := re.findall(pattern, final_part(response), re.DOTALL):
            numbers = re.findall(whole, found[-1])
            return int(numbers[0]) if len(numbers) == 1 else None
    numbers = re.findall(whole, final_part(response))
    return int(numbers[-1]) if numbers else None


class Mathematics(Environment):
    def __init__(self, name: str, judge: str, prompt: str, files: dict[str, str]):
        self.name, self.judge, self.prompt = name, judge, prompt
        self.rows = {split: read(path) for split, path in files.items()}
        self.sizes = {split: len(rows) for split, rows in self.rows.items()}
        self.description = f"Questions of {', '.join(files.values())}, judged {judge}."

    def row(self, episode: Episode) -> tuple[str, str]:
        """heldout: line `index`. train, sft: another order for each pass over the file."""
        rows = self.rows.get(episode.split, [])
        if not rows or (episode.split == "heldout" and episode.index >= len(rows)):
            raise NoSuchEpisode(f"{self.name} has {len(rows)} questions for {episode.split}, none at {episode.index}")
        if episode.split == "heldout":
            return rows[episode.index]
        order = list(range(len(rows)))
        random.Random(f"{episode.seed}/{episode.index // len(rows)}").shuffle(order)
        return rows[order[episode.index % len(rows)]]

    def reset(self, episode: Episode) -> Prompt:
        asked = f"{self.row(episode)[0]}\n\n{INSTRUCTION}"
        return Prompt(messages=[("user", asked)]) if self.prompt == "chat" else Prompt(text=f"{asked}\n\n")

    def score(self, episode: Episode, response: str) -> Score:
        wanted = self.row(episode)[1]
        if self.judge == "aime":
            given = integer(response)
            return Score(float(given == int(wanted)), f"answer {given}")
        gold = math_verify.parse(f"${wanted}$")
        if not gold:
            raise ValueError(f"math-verify cannot read the file's own answer {wanted!r}")
        marked = re.findall(MARKED[0], final_part(response), re.DOTALL)
        given = math_verify.parse(f"${marked[-1].strip().strip('$')}$" if marked else final_part(response))
        return Score(float(math_verify.verify(gold, given)), f"answer {str(given[:1])[:80]}")

    def demonstrate(self, episode: Episode, noise: float) -> str:
        if noise:
            raise BadEpisode(f"answer_noise={noise}: demonstrations of {self.name} are exact only")
        return f"<answer>{self.row(episode)[1]}</answer>"


def environments(name: str = "math", judge: str = "equivalent", prompt: str = "chat", **files: str) -> list[Environment]:
    """`judge`: equivalent (math-verify) or aime (integers 0 to 999). `prompt`: chat, or text for models without a
    template. `train`, `sft`, `heldout`: files, at least one."""
    if judge not in ("equivalent", "aime"):
        raise ValueError(f"judge={judge!r} is neither equivalent nor aime")
    if prompt not in ("chat", "text"):
        raise ValueError(f"prompt={prompt!r} is neither chat nor text")
    if not files or set(files) - {"train", "sft", "heldout"}:
        raise ValueError(f"name files for train, sft or heldout, not {sorted(files)}")
    return [Mathematics(name, judge, prompt, files)]
