"""What there is to know about N environments of one kind."""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

CARTPOLE, MOUNTAIN_CAR, ACROBOT, PENDULUM, MOUNTAIN_CAR_CONTINUOUS = range(5)
NO_LIMIT = 2**62


class BatchedKernel(NamedTuple):
    """All there is to know about N environments of one kind, changed in place by `step_all`."""

    kind: int
    """One of the constants above."""
    parameters: NDArray[np.float64]
    """[P]; the module of each environment says which."""
    limit: int
    """Steps after which an episode is truncated; NO_LIMIT for none."""
    physics: NDArray[np.float64]
    """[N, S]; the module of each environment says which."""
    generators: NDArray[np.uint64]
    """[N, 4]; the PCG64 of each environment: state high and low, increment high and low."""
    lengths: NDArray[np.int64]
    """[N]; steps of the running episode."""
    episodes: NDArray[np.int64]
    """[N]; episodes that have ended."""
