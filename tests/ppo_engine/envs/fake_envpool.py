"""What `envpool` 1.2.5 offers of itself to its users, made of Gymnasium's environments.

Seeds are given when a pool is made and must fit 31 bits; `reset` ignores its seed with a warning; episodes begin anew
in the step after their end, whose reward is 0; rewards are float32; outcomes are ordered by environment.
"""

import warnings
from functools import partial
from typing import Any

import gymnasium
import numpy as np
from gymnasium.vector import AutoresetMode, SyncVectorEnv

IDS = ("CartPole-v1", "HalfCheetah-v5", "LunarLander-v3", "FrozenLake-v1")


def list_all_envs() -> list[str]:
    return list(IDS)


def make(
    env_id: str,
    *,
    env_type: str,
    num_envs: int,
    num_threads: int,
    seed: list[int],
    max_episode_steps: int | None = None,
) -> SyncVectorEnv:
    assert env_id in IDS, f"{env_id} is not supported, `envpool.list_all_envs()` may help."
    assert env_type == "gymnasium"
    assert len(seed) == num_envs
    assert all(0 <= each < 2**31 for each in seed), f"Seed should be in range of int32, got {seed}"
    made = partial(gymnasium.make, env_id, max_episode_steps=max_episode_steps)
    return Pool([made] * num_envs, seed=seed, num_threads=num_threads)


class Pool(SyncVectorEnv):
    def __init__(self, makers: list[Any], *, seed: list[int], num_threads: int) -> None:
        super().__init__(makers, autoreset_mode=AutoresetMode.NEXT_STEP)
        self.config = {"num_threads": num_threads, "seed": seed}
        self._unused_seeds: list[int] | None = seed

    def reset(self, *, seed: Any = None, options: Any = None) -> Any:
        if seed is not None:
            warnings.warn("EnvPool seeds are fixed when the environment is created.", stacklevel=2)
        seeds, self._unused_seeds = self._unused_seeds, None
        return super().reset(seed=seeds)

    def step(self, actions: Any) -> Any:
        observations, rewards, *rest = super().step(actions)
        return (observations, rewards.astype(np.float32), *rest)
