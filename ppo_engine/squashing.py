"""Real numbers as actions between bounds: their tanh, scaled. NumPy only, since readers of a bundle need it."""

from typing import Any

import numpy as np
from numpy.typing import NDArray


def within_float32(low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Bounds as float32 has them, rounded inwards: what is between them is between the bounds of float64, too.

    Where there is no number of float32 between two bounds, both are the nearest one; what float32 cannot hold is no
    bound to it.
    """
    with np.errstate(over="ignore"):
        least, most = low.astype(np.float32), high.astype(np.float32)
    up, down = np.float32(np.inf), np.float32(-np.inf)
    raised = np.where(np.isfinite(least) & (least < low), np.nextafter(least, up), least)
    lowered = np.where(np.isfinite(most) & (most > high), np.nextafter(most, down), most)
    has_room = raised <= lowered
    return np.where(has_room, raised, least), np.where(has_room, lowered, most)


def centre_and_reach(low: NDArray[Any], high: NDArray[Any]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Middle and half width of the intervals [low, high], [A] each; halved before they meet, so neither overflows."""
    half_low, half_high = np.float32(0.5) * low.astype(np.float32), np.float32(0.5) * high.astype(np.float32)
    return half_high + half_low, half_high - half_low


def squashed(rows: NDArray[Any], low: NDArray[Any], high: NDArray[Any]) -> NDArray[np.float32]:
    """Rows [n, A] of any real numbers as rows between the finite bounds [A]: centre + reach · tanh(row)."""
    centre, reach = centre_and_reach(low, high)
    scaled: NDArray[np.float32] = centre + reach * np.tanh(rows)
    # Rounding may have carried a number past its bound.
    between: NDArray[np.float32] = np.minimum(np.maximum(scaled, low.astype(np.float32)), high.astype(np.float32))
    return between
