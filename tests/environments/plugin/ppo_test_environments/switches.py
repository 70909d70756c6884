"""Walks that set what is one for the whole process, or hand out memory that they write into again."""

import os
import tempfile
import warnings
from typing import Any

import numpy as np
import torch

from ppo_test_environments.walks import Observation, Transition, Walk


class DoubleByDefault(Walk):
    def __init__(self) -> None:
        super().__init__()
        torch.set_default_dtype(torch.float64)
        self.weights = torch.ones(2)

    def step(self, action: int) -> Transition:
        # Fails unless both are of one type.
        torch.ones(2) @ self.weights
        return super().step(action)


class WithoutGradients(Walk):
    def __init__(self) -> None:
        super().__init__()
        torch.set_grad_enabled(False)


class SwitchesInStep(Walk):
    def step(self, action: int) -> Transition:
        if self.steps == 0:
            torch.set_default_dtype(torch.float64)
            torch.set_grad_enabled(False)
            torch.set_num_threads(2)
            np.seterr(all="raise")
            warnings.simplefilter("error")
            os.chdir(tempfile.gettempdir())
        return super().step(action)


class SharedTensor(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = torch.zeros(2)

    def observe(self) -> Observation:
        self.buffer.copy_(torch.from_numpy(super().observe()))
        return self.buffer  # type: ignore[return-value]  # as some environments do


class ArrayLike:
    """Numbers that NumPy can read, in memory that is written into again."""

    def __init__(self) -> None:
        self.numbers = np.zeros(2, np.float32)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Observation:
        return self.numbers


class SharedArrayLike(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = ArrayLike()

    def observe(self) -> Observation:
        self.buffer.numbers[:] = super().observe()
        return self.buffer  # type: ignore[return-value]  # as some environments do
