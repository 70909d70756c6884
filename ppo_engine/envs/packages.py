"""Environments of packages that are known here, and may be installed or not.

A package is imported when one of its environments is asked for, or all are: MiniGrid takes 0.2 s, which no other job
should wait for.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from importlib import import_module
from importlib.metadata import version
from importlib.util import find_spec

import gymnasium
from gymnasium.envs.registration import EnvSpec as Registration

from ppo_engine.spec import AtariSpec

LONGEST_GAME_FRAMES = 108_000
"""After so many frames, half an hour of play, a game is cut off. Source: Machado et al. 2018, arXiv:1709.06009"""


@dataclass(frozen=True)
class Package:
    """A package whose environments are offered where it is installed."""

    family: str
    distribution: str
    module: str
    """Registers its environments when it is imported."""
    may_have: Callable[[str], bool]
    """Whether an id looks like one of its environments."""
    entry_point: str
    """Where those start that are offered."""
    made_ours: Callable[[Registration], Registration]

    def has(self, registration: Registration) -> bool:
        """Whether it is one of its environments, offered or not."""
        return str(registration.entry_point).startswith(self.entry_point)

    @property
    def origin(self) -> str:
        return f"{self.distribution} {version(self.distribution)}"


@lru_cache(maxsize=8)
def environments_of(package: Package) -> Mapping[str, Registration]:
    """What a package offers, in order of id; nothing where it is not installed."""
    if find_spec(package.module) is None:
        return {}
    # pygame, which MiniGrid imports, greets on stdout.
    os.environ.setdefault("PYGAME_HIDE_SUPPORT_PROMPT", "1")
    import_module(package.module)
    return {
        env_id: package.made_ours(registration)
        for env_id, registration in sorted(gymnasium.registry.items())
        if package.has(registration) and package.may_have(env_id)
    }


def _may_be_atari(env_id: str) -> bool:
    return env_id.startswith("ALE/") or env_id.endswith("NoFrameskip-v4")


def _atari(registration: Registration) -> Registration:
    kept = {name: registration.kwargs[name] for name in ("game", "repeat_action_probability", "full_action_space")}
    return replace(
        registration,
        entry_point="ppo_engine.envs.atari:AtariGame",
        vector_entry_point="ppo_engine.envs.atari_vector:AtariVector",
        kwargs=kept,
        max_episode_steps=LONGEST_GAME_FRAMES // AtariSpec().frame_skip,
    )


ATARI = Package(
    "atari", "ale-py", "ale_py", may_have=_may_be_atari, entry_point="ale_py.env:AtariEnv", made_ours=_atari
)
"""`ALE/Breakout-v5` and the like, whose frames repeat the action before with a probability of a quarter, and
`BreakoutNoFrameskip-v4`, whose do not, as in the published results. What else the names say, of frames that are
skipped, is up to `env.atari`."""
MINIGRID = Package(
    "minigrid",
    "minigrid",
    "minigrid",
    may_have=lambda env_id: env_id.startswith("MiniGrid-"),
    entry_point="minigrid.envs:",
    made_ours=lambda registration: registration,
)
"""All but BabyAI, whose missions are sentences, and worlds of wave function collapse, which need further packages."""
PACKAGES = (ATARI, MINIGRID)
