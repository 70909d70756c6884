"""Running normalisation of observations and rewards, with statistics in float64.

Within one rollout and the update that follows the statistics stand still, so that the log-probabilities of both are
of the same observations. Observations take in a rollout after its update; rewards, of which only the scale of the whole
rollout matters, before their advantages are estimated.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.fused.episodes import discounted_returns

EPSILON = 1e-8


class RunningMoments:
    """Mean and population variance of everything seen, per feature.

    Source: Chan, Golub and LeVeque 1979, the pairwise update of mean and sum of squares.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(size)
        self.variance: NDArray[np.float64] = np.ones(size)

    def update(self, rows: NDArray[np.floating[Any]]) -> None:
        """Takes in `rows` [n, size]."""
        if len(rows) == 0:
            return
        batch = rows.astype(np.float64)
        mean, variance = batch.mean(axis=0), batch.var(axis=0)
        total = self.count + len(rows)
        shift = mean - self.mean
        share = len(rows) / total
        self.variance = (1 - share) * self.variance + share * variance + share * (1 - share) * shift**2
        self.mean = self.mean + share * shift
        self.count = total


class ObservationNormalizer:
    """x → clip((x - mean) / sqrt(variance + epsilon)), in float64; the identity until it has seen a rollout."""

    def __init__(self, size: int, *, clip: float, normalizable: NDArray[np.bool_] | None = None) -> None:
        """`normalizable` [D] is False for features that stay as they are, such as one-hot ones."""
        self.clip = clip
        self.epsilon = EPSILON
        self.moments = RunningMoments(size)
        self._normalizable = np.ones(size, dtype=np.bool_) if normalizable is None else normalizable
        self.deviation = np.sqrt(self.moments.variance + EPSILON)

    def normalize(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        """[..., D] → [..., D], with the statistics as they stand."""
        scaled: NDArray[np.float64] = (observations - self.moments.mean) / self.deviation
        np.clip(scaled, -self.clip, self.clip, out=scaled)
        return scaled.astype(np.float32)

    def update(self, observations: NDArray[np.float32]) -> None:
        """Takes in raw observations [n, D]."""
        self.moments.update(observations)
        self.moments.mean[~self._normalizable] = 0.0
        self.moments.variance[~self._normalizable] = 1.0
        self.deviation = np.sqrt(self.moments.variance + EPSILON)

    def state(self) -> dict[str, NDArray[Any]]:
        return {
            "mean": self.moments.mean,
            "variance": self.moments.variance,
            "count": np.array(self.moments.count, dtype=np.int64),
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.moments.mean = state["mean"].copy()
        self.moments.variance = state["variance"].copy()
        self.moments.count = int(state["count"])
        self.deviation = np.sqrt(self.moments.variance + EPSILON)


class RewardNormalizer:
    """Divides rewards by the standard deviation of the discounted return so far, which starts anew in each episode.

    The deviation is that of all returns seen, the rollout to be normalised included. Where they are all alike, which
    leaves nothing to divide by, it is their root mean square.

    Source: Engstrom et al. 2020, arXiv:2005.12729, "reward scaling"; reset at terminations and truncations alike.
    """

    def __init__(self, n_envs: int, *, gamma: float, clip: float) -> None:
        self.clip = clip
        self.gamma = gamma
        self.moments = RunningMoments(1)
        self.returns: NDArray[np.float64] = np.zeros(n_envs)

    @property
    def scale(self) -> float:
        variance, square = float(self.moments.variance[0]), float(self.moments.mean[0]) ** 2
        if self.moments.count == 0 or variance + square == 0.0:
            return 1.0
        return float(np.sqrt(variance if variance > EPSILON * square else variance + square))

    def update(self, rewards: NDArray[np.float64], done: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Takes in one rollout, [T, N] each; rows that are not `valid` leave the returns as they are."""
        returns = discounted_returns(rewards, done, valid, self.returns, self.gamma)
        self.moments.update(returns.reshape(-1, 1))

    def normalize(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(rewards / self.scale, -self.clip, self.clip)

    def state(self) -> dict[str, NDArray[Any]]:
        return {
            "mean": self.moments.mean,
            "variance": self.moments.variance,
            "count": np.array(self.moments.count, dtype=np.int64),
            "returns": self.returns,
        }

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.moments.mean = state["mean"].copy()
        self.moments.variance = state["variance"].copy()
        self.moments.count = int(state["count"])
        self.returns = state["returns"].copy()
