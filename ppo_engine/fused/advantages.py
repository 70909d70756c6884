"""Advantage estimates of a rollout and their normalisation, as `ppo_engine.advantages` has them."""

import math

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled_fast
from ppo_engine.fused.network import Floats

EPSILON = 1e-8


@compiled_fast
def advantages_and_returns(
    rewards: Floats,
    values: Floats,
    next_values: Floats,
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    gamma: float,
    gae_lambda: float,
    advantages: Floats,
    returns: Floats,
) -> None:
    """Writes generalised advantage estimates and value targets; all arrays are [T, N]."""
    steps, n_envs = rewards.shape
    discount, decay = np.float32(gamma), np.float32(gamma * gae_lambda)
    for t in range(steps - 1, -1, -1):
        for env in range(n_envs):
            future = np.float32(0) if terminated[t, env] else next_values[t, env]
            delta = rewards[t, env] + discount * future - values[t, env]
            if t < steps - 1 and not (terminated[t, env] or truncated[t, env]):
                delta += decay * advantages[t + 1, env]
            advantages[t, env] = delta
            returns[t, env] = delta + values[t, env]


@compiled_fast
def normalize(advantages: Floats) -> None:
    """Brings [B] to mean 0 and standard deviation 1 (over n - 1), in place; a single one stays as it is.

    The moments are taken in float64, so that equal advantages become 0.
    """
    count = len(advantages)
    if count < 2:
        return
    total = 0.0
    for advantage in advantages:
        total += np.float64(advantage)
    mean, squares = total / count, 0.0
    for advantage in advantages:
        squares += (np.float64(advantage) - mean) ** 2
    scale = 1.0 / (math.sqrt(squares / (count - 1)) + EPSILON)
    for i in range(count):
        advantages[i] = np.float32((np.float64(advantages[i]) - mean) * scale)


@compiled_fast
def explained_variance(values: Floats, returns: Floats, rows: NDArray[np.int64]) -> float:
    """1 - Var(returns - values) / Var(returns) over `rows`; NaN or infinite where all returns are alike."""
    mean_return, mean_error = 0.0, 0.0
    for row in rows:
        mean_return += np.float64(returns[row])
        mean_error += np.float64(returns[row]) - np.float64(values[row])
    mean_return /= len(rows)
    mean_error /= len(rows)
    spread, unexplained = 0.0, 0.0
    for row in rows:
        spread += (np.float64(returns[row]) - mean_return) ** 2
        unexplained += (np.float64(returns[row]) - np.float64(values[row]) - mean_error) ** 2
    return 1.0 - unexplained / spread
