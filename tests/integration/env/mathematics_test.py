#!/usr/bin/env python3
"""Answers whose truth is known by construction, and math-verify's own verdicts. Run by the interpreter of
deploy/setup.sh --python-envs."""
import fractions
import json
import pathlib
import random
import tempfile
import unittest

import math_verify
from palimpsest_env import Episode, NoSuchEpisode
from palimpsest_env.adapters import mathematics


def spellings(value, source):
    """The same number, written in another way."""
    n, d, k = value.numerator, value.denominator, source.randint(2, 9)
    yield f"<answer>{n * k}/{d * k}</answer>"
    yield f"thus $\\frac{{{n}}}{{{d}}}$."
    yield f"\\boxed{{\\dfrac{{{n * k}}}{{{d * k}}}}}"


class Mathematics(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.file = pathlib.Path(folder.name, "questions.jsonl")

    def environment(self, answers, **options):
        self.file.write_text("".join(json.dumps({"question": f"q{i}", "answer": a}) + "\n" for i, a in enumerate(answers)))
        return mathematics.environments(heldout=str(self.file), train=str(self.file), **options)[0]

    def test_equivalence_is_judged_as_math_verify_does_and_as_arithmetic_says(self):
        source = random.Random(1)
        values = [fractions.Fraction(source.randint(1, 99), source.choice([2, 3, 4, 5, 7, 8])) for _ in range(200)]
        environment = self.environment([str(v) for v in values])
        for i, value in enumerate(values):
            episode = Episode("math", "heldout", 0, i)
            for other in (value, value + fractions.Fraction(1, 7)):
                response = list(spellings(other, source))[i % 3]
                reward = environment.score(episode, f"<think>{value}</think> {response}").reward
                self.assertEqual(reward, float(other == value), (value, response))
                inner = response.replace("<answer>", "$").replace("</answer>", "$")
                theirs = math_verify.verify(math_verify.parse(f"${value}$"), math_verify.parse(inner))
                self.assertEqual(reward, float(theirs), (value, response))

    def test_aime_takes_the_marked_integer_or_the_last_one(self):
        source = random.Random(2)
        answers = [source.randrange(1000) for _ in range(200)]
        environment = self.environment(answers, judge="aime")
        for i, answer in enumerate(answers):
            wrong = (answer + 1) % 1000
            for response, right in ((f"<answer>{answer:03}</answer> 5", 1), (f"$\\boxed{{{answer}}}$ of {wrong}", 1),
                                    (f"first {wrong}, then {answer}.", 1), (f"{answer} or <answer>{wrong}</answer>", 0),
                                    (f"<answer>\\boxed{{{answer}}}</answer>", 1), (f"<answer>x = {answer}.</answer>", 1),
                                    (f"<answer>{wrong} or {answer}</answer>", 0), (f"<think>{answer}</think>", 0),
                                    (f"<answer>{answer}.5</answer>", 0), ("", 0)):
                reward = environment.score(Episode("math", "heldout", 0, i), response).reward
                self.assertEqual(reward, right, (answer, response))

    def test_train_takes_every_question_once_in_each_pass_and_heldout_has_an_end(self):
        environment = self.environment(["1"] * 7)
        first, second = ([environment.reset(Episode("math", "train", 3, i)).messages[0][1] for i in r]
                         for r in (range(7), range(7, 14)))
        self.assertEqual(len(set(first)), 7)
        self.assertEqual(sorted(first), sorted(second))
        self.assertNotEqual(first, second)
        for split, index in (("heldout", 7), ("sft", 0)):
            with self.assertRaises(NoSuchEpisode):
                environment.reset(Episode("math", split, 0, index))

    def test_a_question_is_a_conversation_or_for_models_without_a_template_a_text(self):
        episode = Episode("math", "heldout", 0, 0)
        (role, said), = self.environment(["1"]).reset(episode).messages
        self.assertEqual((role, said), ("user", f"q0\n\n{mathematics.INSTRUCTION}"))
        plain = self.environment(["1"], prompt="text").reset(episode)
        self.assertEqual((plain.text, plain.messages), (f"{said}\n\n", []))
        with self.assertRaisesRegex(ValueError, "prompt='chit'"):
            self.environment(["1"], prompt="chit")

    def test_an_answer_that_nobody_can_read_is_no_reward_of_0(self):
        with self.assertRaises(ValueError):
            self.environment([""]).score(Episode("math", "heldout", 0, 0), "4")

    def test_broken_files_name_their_line(self):
        self.file.write_text('{"question": "q", "answer": 1}\n{"problem": "q"}\n')
        with self.assertRaisesRegex(ValueError, "questions.jsonl:2"):
            mathematics.environments(heldout=str(self.file))


if __name__ == "__main__":
    unittest.main()
