"""How weights begin."""

import math

import numpy as np
from numpy.typing import NDArray

HIDDEN_GAIN, ACTOR_GAIN, CRITIC_GAIN = math.sqrt(2), 0.01, 1.0
"""Gains of the orthogonal initialisation. Source: Engstrom et al. 2020, arXiv:2005.12729."""


def orthogonal(generator: np.random.Generator, shape: tuple[int, ...], gain: float) -> NDArray[np.float32]:
    """Weights [outputs, ...] whose rows or columns, whichever are fewer, are orthogonal and of length `gain`.

    What a row holds is taken as flat: the kernels [channels, height, width] of a convolution, as in `torch.nn.init`.

    Source: Saxe et al. 2014, arXiv:1312.6120; uniform over orthogonal matrices by the sign of R's diagonal.
    """
    rows, columns = shape[0], math.prod(shape[1:])
    normal = generator.standard_normal((max(rows, columns), min(rows, columns)))
    q, r = np.linalg.qr(normal)
    q *= np.sign(np.diag(r))
    return (gain * (q if rows >= columns else q.T)).astype(np.float32).reshape(shape)
