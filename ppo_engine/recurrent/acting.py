"""Acting with memory in environments whose episodes end at different times."""

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray

State: TypeAlias = NDArray[np.float32]
Masks: TypeAlias = NDArray[np.bool_]


class Remembering:
    """Gives actions for observations, and carries what is remembered of the episode of each."""

    def __init__(
        self, step: Callable[[NDArray[Any], State, Masks | None], tuple[NDArray[Any], State]], state_size: int
    ) -> None:
        """`step` gives action rows and the next state [n, M] for observations [n, D], a state, and action masks."""
        self._step, self._state_size = step, state_size
        self._state: State | None = None

    def __call__(self, observations: NDArray[Any], masks: Masks | None = None) -> NDArray[Any]:
        """Action rows for observations [n, D] that follow those of the last call."""
        if self._state is None:
            self._state = np.zeros((len(observations), self._state_size), np.float32)
        rows, self._state = self._step(observations, self._state, masks)
        return rows

    def forget(self, ended: NDArray[np.bool_]) -> None:
        """Begins anew for the rows [n] whose episode ended."""
        if self._state is not None and ended.any():
            self._state = np.where(ended[:, None], np.float32(0), self._state)
