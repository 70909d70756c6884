"""Between which numbers an environment's observations should lie, by its own word.

Many an environment leaves the bounds of its Box a little: Gymnasium's LunarLander and BipedalWalker do, and train well.
So a tenth of their width is allowed for on both sides. What lies further out says that space and numbers do not belong
together, such as pixels in a space from 0 to 1, and nothing would be learned from them as it was meant.

Gymnasium's own environments are not held to their bounds: they are what they are, and their excursions are known.
"""

from typing import Any, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ppo_engine.envs.spaces import flat_size

SLACK = 0.1
ROUNDING = 1e-6
"""Of a bound, or of 1 where that is more: how far a number of float32 may be from what it was before. What lies at the
bound of a narrow interval is valid, whatever type it was computed in."""
Limits: TypeAlias = tuple[NDArray[np.float64], NDArray[np.float64]]
"""The least and the greatest number of each feature [D]."""


def limits_of(space: spaces.Space[Any]) -> Limits | None:
    """The limits of flat observations [D] of a space; None where there are none.

    Only a Box has them: choices and bits are checked when they are flattened.
    """
    low, high = np.full((2, flat_size(space)), -np.inf)
    high[:] = np.inf
    _narrow(space, low, high)
    return (low, high) if np.isfinite(low).any() or np.isfinite(high).any() else None


def _narrow(space: spaces.Space[Any], low: NDArray[np.float64], high: NDArray[np.float64]) -> None:
    if isinstance(space, spaces.Box):
        low[:], high[:] = _widened(space)
    elif isinstance(space, spaces.Dict | spaces.Tuple):
        parts = space.spaces.values() if isinstance(space, spaces.Dict) else space.spaces
        begin = 0
        for part in parts:
            end = begin + flat_size(part)
            _narrow(part, low[begin:end], high[begin:end])
            begin = end


def _widened(space: spaces.Box) -> Limits:
    low, high = space.low.ravel().astype(np.float64), space.high.ravel().astype(np.float64)
    if np.dtype(space.dtype).kind in "biu":
        return _outwards(low, high)
    with np.errstate(invalid="ignore", over="ignore"):
        width = high - low
        # Where one side is open, what the other one counts in.
        width = np.where(np.isfinite(width), width, np.maximum(1.0, np.minimum(np.abs(low), np.abs(high))))
        below, above = (np.maximum(SLACK * width, ROUNDING * np.maximum(1.0, np.abs(bound))) for bound in (low, high))
        return _outwards(low - below, high + above)


def _outwards(low: NDArray[np.float64], high: NDArray[np.float64]) -> Limits:
    """No narrower than the bounds as the rows of observations hold them, in float32."""
    with np.errstate(over="ignore"):
        return np.minimum(low, low.astype(np.float32)), np.maximum(high, high.astype(np.float32))
