"""Atari games: one preset for all of them, and what holds for them whatever the preset."""

from fnmatch import fnmatchcase

from ppo_engine.presets.preset import ZOO, Patch, Preset
from ppo_engine.spec import AtariSpec

IDS = ("ALE/*-v5", "*NoFrameskip-v4")
"""The ids of Atari games, as patterns."""

GAME: Patch = {"env": {"n_envs": 8, "frame_stack": 4, "atari": AtariSpec().model_dump(mode="json")}}
"""How every Atari game is seen, where the user does not say otherwise."""

_ATARI: Patch = {
    **GAME,
    "policy": {"hidden_sizes": [], "activation": "relu"},
    "ppo": {
        "total_timesteps": 10_000_000,
        "n_steps": 128,
        "batch_size": 256,
        "n_epochs": 4,
        "gamma": 0.99,
        "gae_lambda": 0.95,
        "ent_coef": 0.01,
        "vf_coef": 0.5,
        "learning_rate": {"kind": "linear", "initial": 2.5e-4, "final": 0.0},
        "clip_range": {"kind": "linear", "initial": 0.1, "final": 0.0},
    },
    "normalize": {"observations": False, "rewards": False},
}

PRESETS = tuple(Preset(pattern, _ATARI, f"{ZOO}, for all Atari games") for pattern in IDS)


def is_atari(env_id: str) -> bool:
    """Whether an id is that of an Atari game."""
    return any(fnmatchcase(env_id, pattern) for pattern in IDS)
