"""Policies with memory for the scripted environments."""

from typing import Any

import numpy as np
import torch

from ppo_engine.policy import Policy
from ppo_engine.recurrent.collector import RecurrentCollector
from ppo_engine.recurrent.learner import RecurrentLearner
from ppo_engine.spec import PolicySpec, PPOSpec
from tests.ppo_engine.scripted import Ramp


def generator(seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def policy_of(environment: Ramp, **spec: Any) -> Policy:
    settings = {"hidden_sizes": (8,), "memory": "lstm", "memory_size": 6, "sequence_length": 4, **spec}
    policy = Policy(PolicySpec(**settings), 2, environment.action_space, generator=generator(0))
    # The actor's last layer begins near zero, where a wrong memory would change next to nothing.
    policy.heads.actor_weight.data *= 100
    return policy


def collector_of(environment: Ramp, *, n_steps: int, **spec: Any) -> RecurrentCollector:
    policy = policy_of(environment, **spec)
    collector = RecurrentCollector(environment, policy, None, n_steps=n_steps, generator=generator(1))
    collector.last_observations = environment.reset()
    return collector


def learner_of(collector: RecurrentCollector, **ppo: Any) -> RecurrentLearner:
    return RecurrentLearner(collector.policy, PPOSpec(**{"batch_size": 16, **ppo}), generator(2))


def stepped_values(policy: Policy, observations: list[list[float]]) -> list[float]:
    """V of each observation of one episode, from its start."""
    state, values = torch.zeros(1, policy.memory.state_size), []
    with torch.no_grad():
        for row in observations:
            _, value, state = policy.step(torch.tensor([row]), state)
            values.append(value.item())
    return values
