#!/usr/bin/env python3
"""The adapter of BabyAI against minigrid itself. Run by the interpreter of deploy/setup.sh --python-envs."""
import contextlib
import io
import random
import re
import unittest

import gymnasium
import minigrid.core.constants as constants
from palimpsest_env import BadEpisode, Episode
from palimpsest_env.adapters import babyai

LEVELS = ["GoToObj", "GoToLocal", "PickupLoc", "Open", "PutNextLocal", "GoTo", "Unlock", "UnlockLocal"]
NAMES = ["turn left", "turn right", "go forward", "pick up", "drop", "toggle"]
COLORS = {"r": "red", "g": "green", "b": "blue", "p": "purple", "y": "yellow", "e": "grey"}
KINDS = {"k": ("key", 0), "o": ("ball", 0), "x": ("box", 0), "/": ("door", 0), "D": ("door", 1), "L": ("door", 2)}
PLAIN = {".": ("empty", "red", 0), "#": ("wall", "grey", 0), "?": ("unseen", "red", 0)}
STATES = {"/": "open ", "D": "closed ", "L": "locked "}
MEANINGS = {"@": "you", ".": "empty", "#": "wall", "?": "not seen"} | {
    color + kind: f"{COLORS[color]} {STATES.get(kind, '')}{KINDS[kind][0]}" for color in COLORS for kind in KINDS}
SEEDS = 200


def parse(text):
    """(mission, carried, {(x, y): (kind, colour, state)}) of an observation, by its own legend of codes."""
    mission, carried = re.match(r"Mission: (.*)\nYou carry (.*)\.\n", text).groups()
    rows = text.split("you look up:\n")[1].split("\nLegend:")[0].split("\n")
    cells = {}
    for y, row in enumerate(rows):
        for x in range(7):
            code = row[3 * x:3 * x + 2].strip()
            if code != "@":
                cells[x, y] = PLAIN[code] if code in PLAIN else (KINDS[code[1]][0], COLORS[code[0]], KINDS[code[1]][1])
    return mission, carried, cells


class BabyAI(unittest.TestCase):
    def setUp(self):
        quiet = contextlib.redirect_stdout(io.StringIO())  # minigrid prints what it rejects
        quiet.__enter__()
        self.addCleanup(quiet.__exit__, None, None, None)

    def expect_view(self, text, env, image):
        mission, carried, cells = parse(text)
        self.assertEqual(mission, env.unwrapped.mission)
        holds = env.unwrapped.carrying
        self.assertEqual(carried, f"a {holds.color} {holds.type}" if holds else "nothing")
        self.assertEqual(len(cells), 48)
        grid, legend = text.split("you look up:\n")[1].split("\nLegend: ")
        shown = sorted({row[3 * x:3 * x + 2].strip() for row in grid.split("\n") for x in range(7)})
        self.assertEqual(legend, ", ".join(f"{code} {MEANINGS[code]}" for code in shown))
        for (x, y), (kind, color, state) in cells.items():
            wanted = constants.OBJECT_TO_IDX[kind], constants.COLOR_TO_IDX[color], state
            self.assertEqual(tuple(image[x][y]), wanted, (x, y))

    def test_two_hundred_seeds_of_each_level_look_and_end_as_minigrid_says(self):
        for environment, level in zip(babyai.environments(), LEVELS, strict=True):
            env = gymnasium.make(f"BabyAI-{level}-v0")
            for seed in range(SEEDS):
                observed, _ = env.reset(seed=seed)
                episode = Episode(environment.name, "heldout", 0, seed)
                self.expect_view(environment.reset(episode).messages[1][1], env, observed["image"])
                source, over = random.Random(seed), False
                for _ in range(4):
                    action = source.randrange(6)
                    turn = environment.step(episode, f"well <action>{NAMES[action]}</action>")
                    observed, reward, terminated, truncated, _ = env.step(action)
                    over = terminated or truncated
                    self.assertEqual(turn.done, over)
                    episode = Episode(environment.name, "heldout", 0, seed, turn.state)
                    if over:
                        break
                    self.expect_view(turn.messages[0][1], env, observed["image"])
                score = environment.score(episode, "")
                self.assertEqual(score.reward, float(over and reward > 0))
                self.assertEqual(score.parts["minigrid"], reward)

    def test_a_glance_says_where_things_are_and_a_letter_acts(self):
        step = {"f": (0, -1), "l": (-1, 0), "r": (1, 0)}
        solved = 0
        for seed in range(40):
            brief = babyai.environments(levels="GoToObj", style="brief", max_turns="32")[0]
            env = gymnasium.make("BabyAI-GoToObj-v0")
            image = env.reset(seed=seed)[0]["image"]
            prompt = brief.reset(Episode(brief.name, "heldout", 0, seed))
            mission, seen = prompt.text.split("|")
            self.assertEqual((mission, prompt.max_response, prompt.stops), (env.unwrapped.mission, 2, ["$"]))
            state, done = None, False
            while not done:
                # Every word names a place; there stands what it says. What has a colour is named, each thing once.
                words = re.findall(r"(#|[rgbpye][koxDL/])((?:[lr]\d)?(?:f\d)?)", seen)
                self.assertEqual("".join(code + place for code, place in words) + ";", seen)
                for code, place in words:
                    x, y = 3, 6
                    for letter, count in re.findall(r"([lrf])(\d)", place):
                        x, y = x + step[letter][0] * int(count), y + step[letter][1] * int(count)
                    kind, color, _ = (int(n) for n in image[x][y])
                    wanted = ("wall", color) if code == "#" else (KINDS[code[1]][0], constants.COLOR_TO_IDX[COLORS[code[0]]])
                    self.assertEqual((constants.IDX_TO_OBJECT[kind], color), wanted)
                things = sum(constants.IDX_TO_OBJECT[int(image[x][y][0])] in ("key", "ball", "box", "door")
                             for x in range(7) for y in range(7))
                self.assertEqual(sum(code != "#" for code, _ in words), things)
                episode = Episode(brief.name, "heldout", 0, seed, state)
                letter = brief.demonstrate(episode, 0)
                self.assertRegex(letter, r"^[lrfpdt]\$$")
                turn = brief.step(episode, letter[:1])
                image = env.step("lrfpdt".index(letter[0]))[0]["image"]
                state, done = turn.state, turn.done
                seen = "" if done else turn.messages[0][1]
            solved += brief.score(Episode(brief.name, "heldout", 0, seed, state), "").reward
        self.assertEqual(solved, 40)
        nothing = brief.step(Episode(brief.name, "heldout", 0, 0), "x")
        self.assertEqual(nothing.state, [babyai.NOTHING])
        self.assertEqual(brief.step(Episode(brief.name, "heldout", 0, 0), "").state, [babyai.NOTHING])

    def test_the_bot_solves_every_level_and_its_wins_are_minigrids(self):
        for environment, level in zip(babyai.environments(max_turns="600"), LEVELS, strict=True):
            for seed in range(6):
                state, actions, done = None, [], False
                while not done:
                    episode = Episode(environment.name, "heldout", 0, seed, state)
                    response = environment.demonstrate(episode, 0)
                    self.assertEqual(response, environment.demonstrate(episode, 0))
                    actions.append(NAMES.index(re.search("<action>(.*)</action>", response)[1]))
                    turn = environment.step(episode, response)
                    state, done = turn.state, turn.done
                self.assertEqual(environment.score(Episode(environment.name, "heldout", 0, seed, state), "").reward, 1)
                env = gymnasium.make(f"BabyAI-{level}-v0")
                env.reset(seed=seed)
                outcomes = [env.step(action) for action in actions]
                self.assertTrue(outcomes[-1][2] and outcomes[-1][1] > 0)

    def play(self, environment, seed, action):
        """The episode in which nothing else is done, and how often that was."""
        state, done = None, False
        while not done:
            turn = environment.step(Episode(environment.name, "heldout", 0, seed, state), f"<action>{action}</action>")
            state, done = turn.state, turn.done
        self.assertEqual(turn.messages, [])
        return Episode(environment.name, "heldout", 0, seed, state), len(state)

    def test_an_episode_ends_unsolved_at_our_bound_or_at_minigrids(self):
        for level in ("GoToObj", "Unlock"):
            bound = gymnasium.make(f"BabyAI-{level}-v0").unwrapped
            bound.reset(seed=0)
            for most, turns, reason in ((5, 5, "not done after 5 turns"),
                                        (2000, bound.max_steps, f"failed after {bound.max_steps} turns")):
                environment = babyai.environments(levels=level, max_turns=str(most))[0]
                episode, took = self.play(environment, 0, "turn left")
                self.assertEqual(took, turns)
                score = environment.score(episode, "")
                self.assertEqual((score.reward, score.reason), (0, reason))
                self.assertEqual(score.parts, {"success": 0, "minigrid": 0, "turns": turns / most})
                with self.assertRaises(BadEpisode):
                    environment.step(episode, "<action>turn left</action>")

    def test_a_win_on_the_last_turn_that_is_allowed_is_a_win(self):
        free = babyai.environments(levels="GoToObj")[0]
        state, done = None, False
        while not done:
            episode = Episode(free.name, "heldout", 0, 1, state)
            turn = free.step(episode, free.demonstrate(episode, 0))
            state, done = turn.state, turn.done
        for most, won in ((len(state), 1), (len(state) - 1, 0)):
            bounded = babyai.environments(levels="GoToObj", max_turns=str(most))[0]
            self.assertEqual(bounded.score(Episode(bounded.name, "heldout", 0, 1, state[:most]), "").reward, won)

    def test_an_episode_goes_on_in_a_process_that_never_saw_it(self):
        one, other = (babyai.environments(levels="PutNextLocal")[0] for _ in range(2))
        state = None
        for _ in range(8):
            episode = Episode(one.name, "train", 5, 3, state)
            response = one.demonstrate(episode, 0)
            self.assertEqual(response, other.demonstrate(episode, 0))
            turn = one.step(episode, response)
            self.assertEqual(turn, babyai.environments(levels="PutNextLocal")[0].step(episode, response))
            state = turn.state

    def test_actions_are_read_from_their_tags(self):
        self.assertEqual(babyai.read_action("<action>Pick up</action>"), 3)
        self.assertEqual(babyai.read_action("drop? <action>I toggle, then drop</action>"), 5)
        self.assertEqual(babyai.read_action("<action>drop</action> no, <action>turn left</action>"), 0)
        self.assertEqual(babyai.read_action("go forward"), babyai.NOTHING)
        environment = babyai.environments(levels="GoToLocal")[0]
        turn = environment.step(Episode(environment.name, "heldout", 0, 0), "hm")
        self.assertIn("No action understood", turn.messages[0][1])
        self.assertEqual(turn.state, [babyai.NOTHING])

    def test_train_never_starts_where_the_evaluation_does(self):
        environment = babyai.environments(levels="GoToObj")[0]
        evaluated = {environment.content(environment.start(seed)) for seed in range(babyai.EVALUATED)}
        starts = {(split, seed): {environment.content(environment.start(environment.seed(Episode("", split, seed, i))))
                                  for i in range(150)} for split in ("train", "sft", "heldout") for seed in (1, 2)}
        for split in ("train", "sft"):
            mine = starts[split, 1] | starts[split, 2]
            self.assertGreater(len(mine), 200)
            self.assertFalse(mine & (evaluated | starts["heldout", 1] | starts["heldout", 2]))
        self.assertFalse(starts["train", 1] & starts["sft", 2])

    def test_states_of_others_are_refused(self):
        environment = babyai.environments(levels="GoToObj", max_turns="3")[0]
        for state in ("x", [7], [0, 0, 0, 0], {"a": 1}):
            with self.assertRaises(BadEpisode):
                environment.step(Episode(environment.name, "heldout", 0, 0, state), "")
        with self.assertRaises(BadEpisode):
            environment.step(Episode(environment.name, "heldout", 0, 0, [0, 0, 0]), "<action>drop</action>")


if __name__ == "__main__":
    unittest.main()
