#!/usr/bin/env python3
"""The adapter of reasoning-gym against reasoning-gym itself. Run by the interpreter of deploy/setup.sh --python-envs.

200 entries of each task. One of zebra_puzzles_7 takes five seconds and more to make: in the gate one of it and 30 of the
same dataset with fewer people, the 200 in the long tests.
"""
import collections
import copy
import dataclasses
import random
import unittest
import unittest.mock

import reasoning_gym
from palimpsest_env import Episode
from palimpsest_env.adapters import reasoning_gym as adapter
from reasoning_gym.logic.zebra_puzzles import ZebraDataset

TASKS = {  # written down here again: this is the reference
    "arc_1d": ("arc_1d", {}, 2.49),
    "sokoban_hard": ("sokoban", {"min_boxes": 3, "max_boxes": 4, "max_w": 9, "max_h": 9}, 3.22),
    "countdown_7": ("countdown", {"min_numbers": 7, "max_numbers": 7}, 3.33),
    "zebra_puzzles_7": ("zebra_puzzles", {"num_people": 7, "num_characteristics": 5}, 3.98),
    "cryptarithm": ("cryptarithm", {}, 5.31),
}
SERVED = {e.name: e for e in adapter.environments(datasets="leg_counting, chain_sum")}


def responses(entry, source):
    """(response, what is scored first)"""
    answer = entry["answer"]
    wrong = "".join(source.sample(answer, len(answer)))
    yield f"I think.\n<answer>{answer}</answer> done <answer>no</answer>", answer
    yield f"<think>{wrong}</think>\n{answer}\n", answer
    yield f"so\n\n  {wrong}  \n\n", wrong.strip()
    yield f"<answer>{wrong}</answer> or {answer}", wrong.strip()
    yield "", ""


class Parity(unittest.TestCase):
    def compare(self, environment, dataset, count, split="heldout", seed=42):
        for k in range(count):
            entry, episode = dataset[k], Episode(environment.name, split, seed, k)
            prompt = environment.reset(episode)
            self.assertEqual(prompt.messages, [("system", reasoning_gym.utils.SYSTEM_PROMPTS["default"]),
                                               ("user", entry["question"])])
            self.assertEqual(environment.score(episode, environment.demonstrate(episode, 0)).reward, 1)
            for response, extracted in responses(entry, random.Random(k)):
                wanted = dataset.score_answer(extracted, entry)
                if wanted < 0.5:
                    wanted = max(wanted, dataset.score_answer(response, entry))
                score = environment.score(episode, response)
                self.assertEqual(score.reward, wanted, (k, response))
                self.assertEqual(score.parts, {"strict": float(wanted == 1), "half": float(wanted >= 0.5)})


class ReasoningGym(Parity):
    def test_the_mixture_draws_the_published_counts(self):
        place = SERVED["rg-mix"].pick
        drawn = collections.Counter(list(TASKS)[place(random.Random(42), k + 1)] for k in range(300))
        self.assertEqual(drawn, {"cryptarithm": 85, "zebra_puzzles_7": 64, "sokoban_hard": 62, "countdown_7": 45, "arc_1d": 44})
        other = collections.Counter(list(TASKS)[place(random.Random(43), k + 1)] for k in range(300))
        self.assertNotEqual(drawn, other)

    def test_entries_of_the_mixture_are_the_published_ones(self):
        drawn = random.Random(42).choices(list(TASKS), [weight for _, _, weight in TASKS.values()], k=300)
        sets = {name: reasoning_gym.create_dataset(kind, seed=42 + i + 1, size=300, **config)
                for i, (name, (kind, config, _)) in enumerate(TASKS.items())}
        for k, name in enumerate(drawn):
            if k < 60 and name != "zebra_puzzles_7":
                prompt = SERVED["rg-mix"].reset(Episode("rg-mix", "heldout", 42, k))
                self.assertEqual(prompt.messages[1][1], sets[name][k]["question"])
                self.assertEqual(prompt.tags, [name])

    def test_two_hundred_entries_of_each_task_and_their_scores_are_equal(self):
        for name in ("arc_1d", "sokoban_hard", "countdown_7", "cryptarithm"):
            kind, config, _ = TASKS[name]
            self.compare(SERVED[f"rg-mix/{name}"], reasoning_gym.create_dataset(kind, seed=43, size=200, **config), 200)

    def test_an_answer_with_a_word_too_many_is_half_right_but_not_strictly(self):
        environment = SERVED["rg-mix/arc_1d"]
        for k in range(20):
            episode = Episode(environment.name, "heldout", 42, k)
            said = environment.demonstrate(episode, 0).replace("</answer>", " end</answer>")
            self.assertEqual(environment.score(episode, said).parts, {"strict": 0.0, "half": 1.0}, said)

    def test_no_question_is_in_two_splits(self):
        for name in ("rg/leg_counting", "rg/chain_sum", "rg-mix/cryptarithm", "rg-mix/arc_1d"):
            questions = {split: {SERVED[name].reset(Episode(name, split, seed, i)).messages[1][1]
                                 for seed in (1, 2) for i in range(60)} for split in ("train", "sft", "heldout")}
            self.assertFalse(questions["train"] & questions["sft"] | questions["train"] & questions["heldout"]
                             | questions["sft"] & questions["heldout"], name)
            self.assertGreater(len(questions["train"]), 60, name)

    def test_as_text_the_question_stands_alone(self):
        served = {e.name: e for e in adapter.environments(prompt="text", datasets="chain_sum")}
        prompt = served["rg/chain_sum"].reset(Episode("rg/chain_sum", "train", 1, 0))
        self.assertTrue(prompt.text.endswith("\n") and not prompt.messages)


class Zebra(Parity):
    def test_a_puzzle_of_the_mixture_and_thirty_smaller_ones_are_equal(self):
        kind, config, _ = TASKS["zebra_puzzles_7"]
        self.compare(SERVED["rg-mix/zebra_puzzles_7"], reasoning_gym.create_dataset(kind, seed=43, size=1, **config), 1)
        config = {"num_people": 3, "num_characteristics": 3}
        small = adapter.ReasoningGym("small", {"zebra": (kind, config, 0.5)}, as_text=False)
        self.compare(small, reasoning_gym.create_dataset(kind, seed=43, size=30, **config), 30)


class TwoHundredZebras(Parity):
    def setUp(self):
        """Each puzzle is made once for both sides. Who asks for another seed, configuration or place gets another one."""
        made, make = {}, ZebraDataset.__getitem__

        def item(dataset, index):
            key = (repr(dataclasses.replace(dataset.config, size=1)), index)
            if key not in made:
                made[key] = make(dataset, index)
            return copy.deepcopy(made[key])

        patch = unittest.mock.patch.object(ZebraDataset, "__getitem__", item)
        patch.start()
        self.addCleanup(patch.stop)

    def test_two_hundred_puzzles_of_the_mixture_and_their_scores_are_equal(self):
        kind, config, _ = TASKS["zebra_puzzles_7"]
        self.compare(SERVED["rg-mix/zebra_puzzles_7"], reasoning_gym.create_dataset(kind, seed=43, size=200, **config), 200)
        print("long: 200 puzzles and the scores of 5 responses to each are reasoning-gym's")


if __name__ == "__main__":
    unittest.main()
