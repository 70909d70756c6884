"""Standard deviations of continuous actions. NumPy only, since readers of a bundle need it."""

import numpy as np
from numpy.typing import NDArray

LOG_STD_BOUNDS = (-20.0, 4.0)
"""Where the optimiser keeps the logarithm of a standard deviation, so that its exponential stays a useful number."""
LEAST_VARIANCE = 1e-6
"""What is added to the variance of noise that depends on features, since these may all be 0."""


def within_bounds(raw: NDArray[np.float32]) -> NDArray[np.float32]:
    """Outputs of a network as logarithms of standard deviations, as `ppo_engine.distributions.continuous` has it."""
    low, high = LOG_STD_BOUNDS
    inner = np.clip(raw, np.float32(low + 1), np.float32(high - 1))
    beyond = raw - inner
    bounded: NDArray[np.float32] = inner + beyond / (1 + np.abs(beyond))
    return bounded
