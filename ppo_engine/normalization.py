"""Running normalisation of observations and rewards, with statistics in float64.

Within one rollout and the update that follows the statistics stand still, so that the log-probabilities of both are
of the same observations. Observations take in a rollout after its update; rewards, of which only the scale of the whole
rollout matters, before their advantages are estimated, and so do returns.
"""

import math
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.envs.spaces import Rows
from ppo_engine.errors import TrainingDiverged
from ppo_engine.fused.episodes import discounted_returns

EPSILON = 1e-8

Values = TypeVar("Values", Tensor, NDArray[np.float32])


class RunningMoments:
    """Mean and population variance of everything seen, per feature.

    Source: Chan, Golub and LeVeque 1979, the pairwise update of mean and sum of squares.
    """

    def __init__(self, size: int) -> None:
        self.count = 0
        self.mean: NDArray[np.float64] = np.zeros(size)
        self.variance: NDArray[np.float64] = np.ones(size)

    def update(self, rows: NDArray[np.floating[Any] | np.uint8]) -> None:
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

    def spread(self) -> float:
        """What to divide the first feature by: its deviation, or its root mean square where all were alike, or 1."""
        with np.errstate(over="ignore"):
            variance, square = float(self.variance[0]), float(np.square(self.mean[0]))
        if self.count == 0 or variance + square == 0.0:
            return 1.0
        return float(np.sqrt(variance if variance > EPSILON * square else variance + square))

    def state(self) -> dict[str, NDArray[Any]]:
        return {"mean": self.mean, "variance": self.variance, "count": np.array(self.count, dtype=np.int64)}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.mean, self.variance = state["mean"].copy(), state["variance"].copy()
        self.count = int(state["count"])


class ObservationNormalizer:
    """x → clip((x - mean) / sqrt(variance + epsilon)), in float64; the identity until it has seen a rollout."""

    def __init__(
        self,
        size: int,
        *,
        clip: float,
        epsilon: float = EPSILON,
        normalizable: NDArray[np.bool_] | None = None,
        columns: NDArray[np.intp] | None = None,
    ) -> None:
        """Takes in rows of `size` features, or those `columns` alone of longer rows, whose others it does not touch.

        `normalizable` [size] is False for features that stay as they are but for the clip, such as one-hot ones.
        """
        self._columns = columns
        self.clip = clip
        self.epsilon = epsilon
        self.moments = RunningMoments(size)
        self._normalizable = np.ones(size, dtype=np.bool_) if normalizable is None else normalizable
        self.deviation = np.sqrt(self.moments.variance + self.epsilon)

    def normalize(self, observations: Rows) -> NDArray[np.float32]:
        """[..., D] → [..., D], with the statistics as they stand."""
        if self._columns is None:
            return self._normalized(observations)
        rows = observations.astype(np.float32)
        rows[..., self._columns] = self._normalized(observations[..., self._columns])
        return rows

    def update(self, observations: Rows) -> None:
        """Takes in raw observations [n, D]."""
        self.moments.update(observations if self._columns is None else observations[:, self._columns])
        self.moments.mean[~self._normalizable] = 0.0
        self.moments.variance[~self._normalizable] = 1.0
        self.deviation = np.sqrt(self.moments.variance + self.epsilon)

    def _normalized(self, observations: Rows) -> NDArray[np.float32]:
        scaled: NDArray[np.float64] = (observations - self.moments.mean) / self.deviation
        np.clip(scaled, -self.clip, self.clip, out=scaled)
        return scaled.astype(np.float32)

    def state(self) -> dict[str, NDArray[Any]]:
        return self.moments.state()

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.moments.restore(state)
        self.deviation = np.sqrt(self.moments.variance + self.epsilon)


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
        return self.moments.spread()

    def update(self, rewards: NDArray[np.float64], done: NDArray[np.bool_], valid: NDArray[np.bool_]) -> None:
        """Takes in one rollout, [T, N] each; rows that are not `valid` leave the returns as they are.

        Raises: TrainingDiverged where the returns are too large to have a variance.
        """
        with np.errstate(over="ignore", invalid="ignore"):
            returns = discounted_returns(rewards, done, valid, self.returns, self.gamma)
            self.moments.update(returns.reshape(-1, 1))
        if not math.isfinite(self.scale):
            largest = np.abs(rewards).max()
            raise TrainingDiverged(f"a reward of {largest:.3g} is too large: the variance of returns is not finite")

    def normalize(self, rewards: NDArray[np.float64]) -> NDArray[np.float64]:
        return np.clip(rewards / self.scale, -self.clip, self.clip)

    def state(self) -> dict[str, NDArray[Any]]:
        return self.moments.state() | {"returns": self.returns}

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.moments.restore(state)
        self.returns = state["returns"].copy()


class ValueNormalizer:
    """The units that the critic predicts in: value = mean + deviation * prediction, of all returns seen.

    Whoever has it take in returns has to bring the critic's last layer into the new units, so that its values stay
    what they were. Source: van Hasselt et al. 2016, arXiv:1602.07714, "preserving outputs precisely"
    """

    def __init__(self) -> None:
        self.moments = RunningMoments(1)

    def denormalize(self, predictions: Values) -> Values:
        """The values of predictions."""
        return predictions * self.moments.spread() + float(self.moments.mean[0])

    def normalize(self, values: Values) -> Values:
        """The predictions that would be right for values."""
        return (values - float(self.moments.mean[0])) / self.moments.spread()

    def update(self, returns: NDArray[np.float32]) -> tuple[float, float]:
        """Takes in returns [n]; shift and scale with which a prediction of before becomes one of the same value.

        Predictions of before the first returns are of no value yet, and stay as they are.
        """
        is_first, mean, spread = self.moments.count == 0, float(self.moments.mean[0]), self.moments.spread()
        self.moments.update(returns.reshape(-1, 1))
        if is_first:
            return 0.0, 1.0
        now = self.moments.spread()
        return (mean - float(self.moments.mean[0])) / now, spread / now

    def state(self) -> dict[str, NDArray[Any]]:
        return self.moments.state()

    def restore(self, state: dict[str, NDArray[Any]]) -> None:
        self.moments.restore(state)
