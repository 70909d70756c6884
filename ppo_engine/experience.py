"""What the environments gave in one rollout, as episode statistics and normalisation take it in."""

from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.envs.spaces import Rows


@dataclass(frozen=True, slots=True)
class Experience:
    """T steps of N environments, [T, N, ...] each; overwritten by the next rollout."""

    actions: Tensor | NDArray[Any]
    """[T, N, columns], as the policy chose them, before they were squashed or clipped."""
    raw_observations: Rows
    rewards: NDArray[np.float64]
    """Raw."""
    terminated: NDArray[np.bool_]
    """Nothing is to be had after it: an episode's own end, or a lost life."""
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    """False for the reset rows of foreign environments, which weigh nothing in anything."""
    lives_lost: NDArray[np.bool_] | None = field(default=None, kw_only=True)
    """Where `terminated` says no more than that a life was lost: the episode goes on. None: nowhere."""

    @property
    def episode_ends(self) -> NDArray[np.bool_]:
        """[T, N]; where an episode ended or was cut off, which a lost life does not do."""
        terminated = self.terminated if self.lives_lost is None else self.terminated & ~self.lives_lost
        return terminated | self.truncated
