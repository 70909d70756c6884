import os
import sys
import time
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

Observation: TypeAlias = NDArray[np.float32]
Transition: TypeAlias = tuple[Observation, float, bool, bool, dict[str, Any]]


class Walk(gymnasium.Env[Observation, int]):
    """Moves left or right by a random stride; ends where it is further than 3 from the start.

    Attributes:
        steps: over the environment's whole life.
        resets: likewise, not counting one that is under way.
    """

    observation_space: spaces.Space[Observation] = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: spaces.Space[int] = spaces.Discrete(2)  # type: ignore[assignment]  # NumPy's integers are integers here

    def __init__(self) -> None:
        self.steps = 0
        self.resets = 0
        self.position = 0.0
        self.time = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.position = float(self.np_random.uniform(-0.5, 0.5))
        self.time = 0
        self.resets += 1
        return self.observe(), {}

    def step(self, action: int) -> Transition:
        self.steps += 1
        self.time += 1
        self.position += (1 if action == 1 else -1) * self.stride()
        return self.observe(), 1.0 - abs(self.position), abs(self.position) > 3.0, False, {}

    def stride(self) -> float:
        return float(self.np_random.uniform(0.0, 1.0))

    def observe(self) -> Observation:
        return np.array([self.position, self.time], np.float32)


class Slow(Walk):
    def __init__(self, seconds_per_step: float = 0.01) -> None:
        super().__init__()
        self.seconds_per_step = seconds_per_step

    def step(self, action: int) -> Transition:
        time.sleep(self.seconds_per_step)
        return super().step(action)


class Chatty(Walk):
    def __init__(self, lines_per_step: int = 10) -> None:
        super().__init__()
        self.lines_per_step = lines_per_step

    def step(self, action: int) -> Transition:
        for line in range(self.lines_per_step):
            print(f"step {self.steps}, line {line}: " + "x" * 80)
        print(f"step {self.steps}: a complaint", file=sys.stderr)
        return super().step(action)


class SharedBuffer(Walk):
    def __init__(self) -> None:
        super().__init__()
        self.buffer = np.zeros(2, np.float32)

    def observe(self) -> Observation:
        self.buffer[:] = super().observe()
        return self.buffer


class Unrepeatable(Walk):
    def stride(self) -> float:
        return int.from_bytes(os.urandom(4)) / 2**32


class ManyFeatures(Walk):
    def __init__(self, features: int = 1000) -> None:
        super().__init__()
        self.features = features
        self.observation_space = spaces.Box(-np.inf, np.inf, (features,), np.float32)

    def observe(self) -> Observation:
        return np.linspace(self.position, self.time, self.features, dtype=np.float32)
