"""Environments that are stepped by halves, so that one half can be acted for while the other is stepped."""

from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.vector import Step, VectorEnvironment


class Halves(Protocol):
    """Environments of which each half steps by itself."""

    halves: tuple[slice, slice]

    def begin_step(self, rows: slice, actions: NDArray[Any]) -> None:
        """Has one half begin a step, by its rows of actions, [n, columns]."""
        ...

    def finish_step(self, rows: slice) -> Step:
        """What the half's step led to, in its rows of the arrays; the others are not to be read.

        Raises: as `VectorEnvironment.step`.
        """
        ...


class HalvesAtOnce:
    """Environments that can only be stepped together: when the first half is to have finished."""

    def __init__(self, environment: VectorEnvironment) -> None:
        self._environment = environment
        n, space = environment.n_envs, environment.action_space
        self.halves = halves_of(n)
        self._actions = np.zeros((n, space.columns), space.row_dtype)
        self._step: Step | None = None

    def begin_step(self, rows: slice, actions: NDArray[Any]) -> None:
        self._actions[rows] = actions

    def finish_step(self, rows: slice) -> Step:
        if rows == self.halves[0]:
            self._step = self._environment.step(self._actions)
        assert self._step is not None
        return self._step


def halves_of(n_envs: int) -> tuple[slice, slice]:
    """The first and the second half of so many environments."""
    middle = round(n_envs / 2)
    return slice(0, middle), slice(middle, n_envs)
