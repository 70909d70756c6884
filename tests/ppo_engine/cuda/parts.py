"""The parts of a training on the device, on the CPU."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ppo_engine.cuda.backend import DeviceBackend
from ppo_engine.cuda.environment import DeviceEnvironment
from ppo_engine.metrics import EpisodeStatistics
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer
from ppo_engine.policy import Policy
from ppo_engine.random import seed_sequence, stream
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import EnvSpec, PolicySpec, PPOSpec
from ppo_engine.statistics import Statistics

NOW = Coefficients(learning_rate=1e-3, clip_range=0.2, clip_range_vf=None)


@dataclass(frozen=True)
class Parts:
    environment: DeviceEnvironment
    policy: Policy
    normalizer: ObservationNormalizer | None
    reward_normalizer: RewardNormalizer | None
    episodes: EpisodeStatistics
    backend: DeviceBackend


def parts_of(
    env_id: str = "CartPole-v1",
    *,
    seed: int = 1,
    n_envs: int = 4,
    normalize: bool = True,
    device: str = "cpu",
    max_episode_steps: int | None = None,
    policy: dict[str, Any] | None = None,
    **ppo: Any,
) -> Parts:
    """N = 4 environments, T = 16 steps, minibatches of 32 rows, 2 epochs."""
    spec = PPOSpec(**({"n_steps": 16, "batch_size": 32, "n_epochs": 2} | ppo))
    env = EnvSpec(id=env_id, n_envs=n_envs, max_episode_steps=max_episode_steps)
    environment = DeviceEnvironment(env, seed_sequence(seed, "env"), device=torch.device(device))
    made = Policy(
        PolicySpec(**({"hidden_sizes": (16, 16)} | (policy or {}))),
        environment.observation_size,
        environment.action_space,
        generator=stream(seed, "init"),
        device=environment.device,
    )
    normalizer = ObservationNormalizer(environment.observation_size, clip=10.0, epsilon=0.5) if normalize else None
    reward_normalizer = RewardNormalizer(n_envs, gamma=spec.gamma, clip=10.0) if normalize else None
    episodes = EpisodeStatistics(n_envs)
    backend = DeviceBackend(
        environment,
        made,
        spec,
        Statistics(normalizer, reward_normalizer, episodes),
        seed=seed,
    )
    backend.collector.last_observations = environment.reset()
    return Parts(environment, made, normalizer, reward_normalizer, episodes, backend)


def numbers(tensor: torch.Tensor) -> np.ndarray:
    """A copy."""
    return tensor.detach().cpu().numpy().copy()
