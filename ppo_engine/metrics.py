"""What training reports: episode statistics, window means, explained variance. A key without a value yet is absent."""

import math
from collections import deque
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor

from ppo_engine.envs.spaces import ActionSpace
from ppo_engine.fused.episodes import finished_episodes

EPISODES = 100
"""How many finished episodes `rollout/ep_rew_mean` and `rollout/ep_len_mean` are means of, as in Stable-Baselines3."""
SNAPSHOTS = ("rollout/ep_rew_mean", "rollout/ep_len_mean", "eval/mean_reward", "eval/mean_ep_length")
"""Metrics of which a window reports the last value; of all others it reports the mean."""


class EpisodeStatistics:
    """Raw, undiscounted returns and lengths of the last episodes, and of those still running."""

    def __init__(self, n_envs: int) -> None:
        self._returns: NDArray[np.float64] = np.zeros(n_envs)
        self._lengths: NDArray[np.int64] = np.zeros(n_envs, dtype=np.int64)
        self._finished: deque[tuple[float, int]] = deque(maxlen=EPISODES)

    def update(self, rewards: NDArray[np.float64], done: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Takes in one rollout, [T, N] each; rows that are not `valid` count nowhere."""
        returns, lengths = finished_episodes(rewards, done, valid, self._returns, self._lengths)
        self._finished.extend(zip(returns.tolist(), lengths.tolist(), strict=True))

    def metrics(self) -> dict[str, float]:
        if not self._finished:
            return {}
        returns, lengths = zip(*self._finished, strict=True)
        return {"rollout/ep_rew_mean": float(np.mean(returns)), "rollout/ep_len_mean": float(np.mean(lengths))}

    def state(self) -> dict[str, NDArray[Any]]:
        return {
            "returns": self._returns,
            "lengths": self._lengths,
            "finished_returns": np.array([episode[0] for episode in self._finished], dtype=np.float64),
            "finished_lengths": np.array([episode[1] for episode in self._finished], dtype=np.int64),
        }

    def restore(self, state: Mapping[str, NDArray[Any]]) -> None:
        self._returns, self._lengths = state["returns"].copy(), state["lengths"].copy()
        finished = zip(state["finished_returns"].tolist(), state["finished_lengths"].tolist(), strict=True)
        self._finished = deque(finished, maxlen=EPISODES)


def update_metrics(
    terms: NDArray[np.float64], norms: NDArray[np.float64], *, last_epoch: int, explained_variance: float
) -> dict[str, float]:
    """The metrics of one iteration's update: means over its minibatches; approx_kl over those of its last epoch.

    Args:
        terms: [minibatches, 6], the fields of `loss.LossTerms`.
        norms: [steps], the gradient's norm of each minibatch that led to a step.
        last_epoch: the first minibatch of the last epoch.
    """
    means = terms.mean(axis=0).tolist()
    metrics = {
        "train/loss": means[0],
        "train/policy_loss": means[1],
        "train/value_loss": means[2],
        "train/entropy": means[3],
        "train/approx_kl": float(terms[last_epoch:, 4].mean()),
        "train/clip_fraction": means[5],
    }
    if len(norms):
        metrics["train/grad_norm"] = float(norms.mean())
    if math.isfinite(explained_variance):
        metrics["train/explained_variance"] = explained_variance
    return metrics


class WindowState(BaseModel):
    """What a window has gathered: of each metric the sum, and how many iterations had it."""

    model_config = ConfigDict(extra="forbid")

    iterations: int = 0
    timesteps: int = 0
    seconds: float = 0.0
    sums: dict[str, float] = {}
    counts: dict[str, int] = {}


class MetricsWindow:
    """Gathers the metrics of `every` iterations into one row."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._gathered = WindowState()

    def add(self, metrics: Mapping[str, float], *, timesteps: int, seconds: float) -> None:
        """Takes in one iteration, which made `timesteps` in `seconds`."""
        gathered = self._gathered
        gathered.iterations += 1
        gathered.timesteps += timesteps
        gathered.seconds += seconds
        for key, value in metrics.items():
            if key in SNAPSHOTS:
                gathered.sums[key], gathered.counts[key] = value, 1
            else:
                gathered.sums[key] = gathered.sums.get(key, 0.0) + value
                gathered.counts[key] = gathered.counts.get(key, 0) + 1

    @property
    def full(self) -> bool:
        return self._gathered.iterations >= self._every

    def close(self) -> dict[str, float]:
        """The row of this window; a new one begins."""
        gathered, self._gathered = self._gathered, WindowState()
        row = {key: total / gathered.counts[key] for key, total in gathered.sums.items()}
        row["time/fps"] = gathered.timesteps / max(gathered.seconds, 1e-9)
        return row

    def state(self) -> WindowState:
        return self._gathered.model_copy(deep=True)

    def restore(self, state: WindowState) -> None:
        self._gathered = state.model_copy(deep=True)


def saturation_metrics(actions: Tensor | NDArray[Any], space: ActionSpace) -> dict[str, float]:
    """The share of action components [T, N, A] that lie at or beyond the bounds of their Boxes; none without any."""
    actions = actions.cpu().numpy() if isinstance(actions, Tensor) else actions
    parts = np.split(actions, np.cumsum([leaf.columns for leaf in space.leaves])[:-1], axis=-1)
    boxes = [(own, leaf) for own, leaf in zip(parts, space.leaves, strict=True) if leaf.kind == "box"]
    beyond = [(own <= box.low) | (own >= box.high) for own, box in boxes]
    components = np.concatenate(beyond, axis=-1)
    return {"rollout/saturated_actions": float(np.mean(components))} if components.size else {}


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns), a scalar: 1 is a perfect critic, 0 one that knows the mean alone.

    NaN or infinite where all returns are alike.
    """
    return 1 - torch.var(returns - values, correction=0) / torch.var(returns, correction=0)
