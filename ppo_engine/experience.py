"""What the environments gave in one rollout, as episode statistics and normalisation take it in."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True)
class Experience:
    """T steps of N environments, [T, N, ...] each; overwritten by the next rollout."""

    raw_observations: NDArray[np.float32]
    rewards: NDArray[np.float64]
    """Raw."""
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    valid: NDArray[np.bool_]
    """False for the reset rows of foreign environments, which weigh nothing in anything."""
