"""Whether numbers are finite."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled


@compiled
def all_finite(numbers: NDArray[np.floating[Any]]) -> bool:
    """Whether there is neither an infinity nor a NaN among them, [n]."""
    # Counted by index and without a way out, so that it compiles to vector code.
    count = 0
    for i in range(numbers.size):
        count += np.isfinite(numbers[i])
    return count == numbers.size
