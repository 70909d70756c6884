"""Arrays that NumPy computes with and torch allocates."""

from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import DTypeLike, NDArray

Floats: TypeAlias = NDArray[np.floating[Any]]


def aligned(shape: tuple[int, ...], dtype: DTypeLike) -> Floats:
    """An array that is not initialised, where torch would put a tensor.

    Where a matrix lies can change the last bit of a product, and NumPy aligns to 16 bytes only.
    """
    array: Floats = torch.empty(shape, dtype=torch.float64 if np.dtype(dtype) == np.float64 else torch.float32).numpy()
    return array
