"""Images made smaller by averaging what each new pixel covers, as OpenCV's INTER_AREA does, in exact integers."""

import math
from typing import Any

import numpy as np
from numpy.typing import NDArray

Taps = list[tuple[NDArray[np.intp], NDArray[Any]]]
"""For the k-th old row that a new one covers: its index and its weight, per new row."""


class AreaResize:
    """Scales images [rows, columns] or [rows, columns, 3] of unsigned bytes to [size, size]."""

    def __init__(self, rows: int, columns: int, size: int) -> None:
        """`size` is no more than `rows` and `columns`."""
        down, across = _weights(rows, size), _weights(columns, size)
        self._total = int(down[0].sum()) * int(across[0].sum())
        kind = np.uint16 if 255 * self._total < 2**16 else np.uint32 if 255 * self._total < 2**32 else np.float64
        self._down, self._across = _taps(down, kind), _taps(across, kind)

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        # Rows lie together in memory, so columns are made rows before they are summed.
        narrow = _summed(np.swapaxes(_summed(image, self._down), 0, 1), self._across)
        sums = np.swapaxes(narrow, 0, 1)
        return np.rint(sums / np.float32(self._total)).astype(np.uint8)


def _summed(image: NDArray[Any], taps: Taps) -> NDArray[Any]:
    total: NDArray[Any] | None = None
    for index, weight in taps:
        part = image.take(index, axis=0) * weight.reshape(-1, *(1,) * (image.ndim - 1))
        total = part if total is None else np.add(total, part, out=total)
    assert total is not None
    return total


def _weights(old: int, new: int) -> NDArray[np.int64]:
    """[new, old]: how much of each old row lies in each new one, in whole units; each new row sums to the same."""
    unit = math.gcd(old, new)
    begin, end = np.arange(new) * (old // unit), np.arange(1, new + 1) * (old // unit)
    first, last = np.arange(old) * (new // unit), np.arange(1, old + 1) * (new // unit)
    weights: NDArray[np.int64] = np.clip(np.minimum(end[:, None], last) - np.maximum(begin[:, None], first), 0, None)
    return weights


def _taps(weights: NDArray[np.int64], kind: Any) -> Taps:
    covered = [np.flatnonzero(row) for row in weights]
    widest = max(map(len, covered))
    # Where a new row covers fewer old ones than another, its last one comes again with no weight.
    index = np.array([np.append(old, np.full(widest - len(old), old[-1])) for old in covered])
    weight = np.take_along_axis(weights, index, axis=1)
    weight[np.arange(widest) >= np.array([len(old) for old in covered])[:, None]] = 0
    return [(index[:, tap].copy(), weight[:, tap].astype(kind)) for tap in range(widest)]
