"""BabyAI as text: eight levels of minigrid, multi-turn, with its bot as the expert.

episode.state is the list of actions so far. An episode is made again from it whenever the next call finds no living
copy, so any process can go on with any episode.
"""
import collections
import dataclasses
import hashlib
import re

import gymnasium
import minigrid  # noqa: F401  registers the levels
from minigrid.core.constants import IDX_TO_COLOR, IDX_TO_OBJECT
from minigrid.utils.baby_ai_bot import BabyAIBot

from palimpsest_env import BadEpisode, Environment, Episode, NoSuchEpisode, Prompt, Score, Turn, split_of

LEVELS = ["GoToObj", "GoToLocal", "PickupLoc", "Open", "PutNextLocal", "GoTo", "Unlock", "UnlockLocal"]
ACTIONS = ["turn left", "turn right", "go forward", "pick up", "drop", "toggle"]  # minigrid's 0 to 5
NOTHING = 6  # minigrid's `done`: a step in which nothing is moved
COLORS = {"red": "r", "green": "g", "blue": "b", "purple": "p", "yellow": "y", "grey": "e"}
OBJECTS = {"key": "k", "ball": "o", "box": "x"}
DOORS = ["/", "D", "L"]  # open, closed, locked
DOOR_WORDS = ["open", "closed", "locked"]
LIVING = 256  # episodes kept between two calls, and four times as many seeds
EVALUATED = 256  # starts of heldout, seed 0, that train and sft never begin with

SYSTEM = f"""You act in a grid world, one action each turn. You see the 7 x 7 cells before you; walls and closed doors hide what is behind.
Actions: {", ".join(ACTIONS)}. Pick up, drop and toggle concern the cell in front of you; toggle opens a door, a locked one with its key.
Think briefly, then write exactly one action between <action> and </action>."""


def cell(kind: str, color: str, state: int) -> tuple[str, str]:
    """(two characters, what they mean); the meaning of empty and unseen cells is known."""
    if kind == "door":
        return COLORS[color] + DOORS[state], f"{color} {DOOR_WORDS[state]} door"
    if kind in OBJECTS:
        return COLORS[color] + OBJECTS[kind], f"{color} {kind}"
    return {"unseen": (" ?", "not seen"), "empty": (" .", "empty"), "wall": (" #", "wall")}[kind]


def view(env) -> str:
    """The mission, what is carried, seven rows of seven cells and a legend of what is in them."""
    image = env.gen_obs()["image"]
    legend, rows = {}, []
    for y in range(7):
        row = []
        for x in range(7):
            kind, color, state = (int(n) for n in image[x][y])
            mine = (x, y) == (3, 6)  # minigrid shows there what is carried
            code, meaning = (" @", "you") if mine else cell(IDX_TO_OBJECT[kind], IDX_TO_COLOR[color], state)
            legend[code.strip()] = meaning
            row.append(code)
        rows.append(" ".join(row))
    carried = f"a {env.carrying.color} {env.carrying.type}" if env.carrying else "nothing"
    known = ", ".join(f"{code} {meaning}" for code, meaning in sorted(legend.items()))
    return f"Mission: {env.mission}\nYou carry {carried}.\nView, you look up:\n" + "\n".join(rows) + f"\nLegend: {known}"


def read_action(response: str) -> int:
    """Of the last <action>: its exact name, else the first name in it. NOTHING where there is none."""
    found = re.findall(r"<action>(.*?)</action>", response, re.DOTALL)
    text = found[-1].strip().lower() if found else ""
    if text in ACTIONS:
        return ACTIONS.index(text)
    places = [(text.find(name), i) for i, name in enumerate(ACTIONS) if name in text]
    return min(places)[1] if places else NOTHING


class Talk:
    """A conversation with a model that reads: the grid with a legend, an action between tags."""

    def prompt(self, env, level: str) -> Prompt:
        return Prompt(messages=[("system", SYSTEM), ("user", view(env))], tags=[level])

    def said(self, env, action: int) -> str:
        missed = "" if action != NOTHING else f"No action understood. Actions: {', '.join(ACTIONS)}.\n"
        return missed + view(env)

    def read(self, response: str) -> int:
        return read_action(response)

    def write(self, action: int) -> str:
        return f"<action>{ACTIONS[action]}</action>"


def glance(env) -> str:
    """A few bytes: *ro carried; #f3 a wall three cells ahead (l left, r right); rkl2f1 a red key two left, one ahead."""
    image = env.gen_obs()["image"]
    kinds = [[IDX_TO_OBJECT[int(image[x][y][0])] for y in range(7)] for x in range(7)]
    words = [f"*{COLORS[env.carrying.color]}{OBJECTS[env.carrying.type]}"] if env.carrying else []
    for letter, cells in (("f", [(3, 6 - i) for i in range(1, 7)]), ("l", [(3 - i, 6) for i in range(1, 4)]),
                          ("r", [(3 + i, 6) for i in range(1, 4)])):
        walls = [i for i, (x, y) in enumerate(cells, 1) if kinds[x][y] == "wall"]
        words += [f"#{letter}{walls[0]}"] if walls else []
    for y in range(6, -1, -1):
        for x in range(7):
            if (x, y) == (3, 6) or kinds[x][y] not in ("door", *OBJECTS):
                continue
            _, color, state = (int(n) for n in image[x][y])
            side = f"l{3 - x}" if x < 3 else f"r{x - 3}" if x > 3 else ""
            words.append(cell(kinds[x][y], IDX_TO_COLOR[color], state)[0] + side + (f"f{6 - y}" if y < 6 else ""))
    return "".join(words) + ";"


class Brief:
    """For a small model that is only now learning to write: a glance each turn, answered by one letter and $."""
    LETTERS = "lrfpdt"

    def prompt(self, env, level: str) -> Prompt:
        return Prompt(text=f"{env.mission}|{glance(env)}", max_response=2, stops=["$"], tags=[level])

    def said(self, env, action: int) -> str:
        return glance(env)

    def read(self, response: str) -> int:
        return self.LETTERS.find(response[:1]) if response[:1] and response[:1] in self.LETTERS else NOTHING

    def write(self, action: int) -> str:
        return self.LETTERS[action] + "$"


STYLES = {"talk": Talk, "brief": Brief}


@dataclasses.dataclass
class Living:
    env: object
    bot: BabyAIBot | None = None
    planned: int | None = None  # what the bot says for the present state
    reward: float = 0
    done: bool = False

    def plan(self, last: int | None) -> int:
        if self.planned is None:
            self.planned = int(self.bot.replan(last))
        return self.planned

    def act(self, action: int, last: int | None) -> None:
        if self.bot:
            self.plan(last)  # the bot follows what happens only if it is asked each time
        _, self.reward, terminated, truncated, _ = self.env.step(action)
        self.done, self.planned = terminated or truncated, None


class BabyAI(Environment):
    def __init__(self, level: str, max_turns: int, style: Talk | Brief):
        self.level, self.max_turns, self.style = level, max_turns, style
        self.name = f"babyai/{level}"
        self.description = f"MiniGrid's BabyAI-{level}-v0 as text."
        self.max_response = 0
        self.living = collections.OrderedDict()
        self.seeds = {}
        self.evaluated = None

    def start(self, seed: int):
        env = gymnasium.make(f"BabyAI-{self.level}-v0", disable_env_checker=True).unwrapped
        env.reset(seed=seed)
        return env

    def content(self, env) -> str:
        return f"{env.mission} {env.agent_pos} {env.agent_dir} {env.grid.encode().tobytes().hex()}"

    def seed(self, episode: Episode) -> int:
        """Of minigrid. heldout of seed 0: the index. Else by content, and none but heldout where that starts."""
        if episode.split == "heldout" and episode.seed == 0:
            return episode.index
        if self.evaluated is None:
            self.evaluated = {self.content(self.start(i)) for i in range(EVALUATED)}
        for draw in range(1000):
            key = f"{self.level}/{episode.split}/{episode.seed}/{episode.index}/{draw}"
            seed = int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")
            content = self.content(self.start(seed))
            if split_of(content) == episode.split and (episode.split == "heldout" or content not in self.evaluated):
                return seed
        raise NoSuchEpisode(f"{self.name}: no start for {episode.split} in 1000 draws")

    def known_seed(self, episode: Episode) -> int:
        key = episode.split, episode.seed, episode.index
        if key not in self.seeds:
            if len(self.seeds) >= 4 * LIVING:
                self.seeds.clear()
            self.seeds[key] = self.seed(episode)
        return self.seeds[key]

    def at(self, episode: Episode, with_bot: bool = False) -> Living:
        """The episode after its actions; taken from the living where it can be."""
        actions = self.actions(episode)
        living = self.living.pop(self.key(episode, actions), None)
        if living is None or (with_bot and living.bot is None):
            env = self.start(self.known_seed(episode))
            living = Living(env, BabyAIBot(env) if with_bot else None)
            for i, action in enumerate(actions):
                if living.done:
                    raise BadEpisode(f"episode.state has {len(actions)} actions, the episode was over after {i}")
                living.act(action, actions[i - 1] if i else None)
        self.keep(episode, actions, living)
        return living

    def key(self, episode: Episode, actions: list[int]):
        return episode.split, episode.seed, episode.index, tuple(actions)

    def keep(self, episode: Episode, actions: list[int], living: Living) -> None:
        self.living[self.key(episode, actions)] = living
        while len(self.living) > LIVING:
            self.living.popitem(last=False)

    def actions(self, episode: Episode) -> list[int]:
        actions = [] if episode.state is None else episode.state
        if not isinstance(actions, list) or not all(a in range(NOTHING + 1) for a in actions) or len(actions) > self.max_turns:
            raise BadEpisode(f"episode.state is not a list of at most {self.max_turns} actions")
        return actions

    def reset(self, episode: Episode) -> Prompt:
        return self.style.prompt(self.at(episode).env, self.level)

    def step(self, episode: Episode, response: str) -> Turn:
        living, actions = self.at(episode), self.actions(episode)
        if living.done or len(actions) >= self.max_turns:
            raise BadEpisode(f"episode.state: the episode is over after {len(actions)} actions")
        self.living.pop(self.key(episode, actions))
        action = self.style.read(response)
        living.act(action, actions[-1] if actions else None)
        actions = actions + [action]
        self.keep(episode, actions, living)
        if living.done or len(actions) >= self.max_turns:
            return Turn(actions, done=True)
        return Turn(actions, [("user", self.style.said(living.env, action))])

    def score(self, episode: Episode, response: str) -> Score:
        living, turns = self.at(episode), len(self.actions(episode))
        success = float(living.done and living.reward > 0)
        reason = f"{'done' if success else 'failed' if living.done else 'not done'} after {turns} turns"
        return Score(success, reason, {"success": success, "minigrid": float(living.reward), "turns": turns / self.max_turns})

    def demonstrate(self, episode: Episode, noise: float) -> str:
        if noise:
            raise BadEpisode(f"answer_noise={noise}: the bot is exact only")
        living, actions = self.at(episode, with_bot=True), self.actions(episode)
        if living.done:
            raise BadEpisode("episode.state: the episode is over")
        planned = living.plan(actions[-1] if actions else None)
        if planned >= NOTHING:
            raise NotImplementedError(f"the bot of minigrid has no action here, after {len(actions)} turns")
        return self.style.write(planned)


def environments(levels: str = ",".join(LEVELS), max_turns: str = "64", style: str = "talk") -> list[Environment]:
    """`levels`: names, separated by commas. `style`: talk, or brief for small models without a chat template."""
    names = [name.strip() for name in levels.split(",")]
    if unknown := [name for name in names if name not in LEVELS]:
        raise ValueError(f"levels={unknown[0]!r} is not one of {', '.join(LEVELS)}")
    if int(max_turns) < 2:
        raise ValueError(f"max_turns={max_turns} is less than 2")
    if style not in STYLES:
        raise ValueError(f"style={style!r} is not one of {', '.join(STYLES)}")
    return [BabyAI(name, int(max_turns), STYLES[style]()) for name in names]
