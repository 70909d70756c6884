"""Sums along episodes over one rollout: what runs on from step to step, and starts anew where an episode ends."""

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled, inlined

Flags = NDArray[np.bool_]


@inlined
def count_of(flags: Flags) -> int:
    """How many of [T, N] are set. NumPy's sum would have the compiler do text, for errors that cannot come up."""
    count = 0
    for t in range(flags.shape[0]):
        for env in range(flags.shape[1]):
            count += 1 if flags[t, env] else 0
    return count


@compiled
def finished_episodes(
    rewards: NDArray[np.float64],
    done: Flags,
    valid: Flags,
    returns: NDArray[np.float64],
    lengths: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Returns and lengths of the episodes that ended, in the order of their steps and environments.

    Args:
        rewards, done, valid: [T, N]; rows that are not valid count nowhere.
        returns, lengths: [N], those of the episodes under way; brought up to date.
    """
    steps, n_envs = rewards.shape
    most = count_of(done)
    finished_returns, finished_lengths = np.empty(most), np.empty(most, np.int64)
    count = 0
    for t in range(steps):
        for env in range(n_envs):
            if not valid[t, env]:
                continue
            returns[env] += rewards[t, env]
            lengths[env] += 1
            if done[t, env]:
                finished_returns[count], finished_lengths[count] = returns[env], lengths[env]
                returns[env], lengths[env] = 0.0, 0
                count += 1
    return finished_returns[:count], finished_lengths[:count]


@compiled
def discounted_returns(
    rewards: NDArray[np.float64], done: Flags, valid: Flags, returns: NDArray[np.float64], gamma: float
) -> NDArray[np.float64]:
    """The discounted return of each episode so far, at each valid step: [valid rows].

    Args:
        rewards, done, valid: [T, N]; a row that is not valid leaves its return as it is.
        returns: [N], those that the rollout begins with; brought up to date.
    """
    steps, n_envs = rewards.shape
    seen = np.empty(count_of(valid))
    count = 0
    for t in range(steps):
        for env in range(n_envs):
            if valid[t, env]:
                returns[env] = gamma * returns[env] + rewards[t, env]
                seen[count] = returns[env]
                count += 1
            if done[t, env]:
                returns[env] = 0.0
    return seen[:count]
