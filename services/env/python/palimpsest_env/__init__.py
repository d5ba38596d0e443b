"""Environments in Python behind palimpsest-env. docs/environments.md goes from an idea to a training run."""
from palimpsest_env.environment import BadEpisode, Environment, Episode, NoSuchEpisode, Prompt, Score, Turn, split_of

__all__ = ["BadEpisode", "Environment", "Episode", "NoSuchEpisode", "Prompt", "Score", "Turn", "split_of"]
