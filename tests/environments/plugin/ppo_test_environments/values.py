from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces

from ppo_test_environments.walks import Observation, Transition


class OneNumber(gymnasium.Env[Observation, int]):
    """One observation number, and a number of actions."""

    observation_space: spaces.Space[Observation] = spaces.Box(-np.inf, np.inf, (1,), np.float32)

    def __init__(self, n_actions: int) -> None:
        self.action_space = spaces.Discrete(n_actions)  # type: ignore[assignment]  # NumPy's integers are integers here
        self.number = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self.number = self.first_number()
        return np.array([self.number], np.float32), {}

    def first_number(self) -> float:
        return 0.0

    def random_sign(self) -> float:
        return 1.0 if self.np_random.random() < 0.5 else -1.0

    def over(self, reward: float) -> Transition:
        return np.array([self.number], np.float32), reward, True, False, {}

    def running(self, reward: float) -> Transition:
        return np.array([self.number], np.float32), reward, False, False, {}


class ConstantReward(OneNumber):
    def __init__(self) -> None:
        super().__init__(2)

    def step(self, action: int) -> Transition:
        return self.running(1.0)


class Ramp(OneNumber):
    def __init__(self) -> None:
        super().__init__(2)

    def step(self, action: int) -> Transition:
        reward = self.number
        self.number += 1.0
        return self.running(reward)


class ProbeConstant(OneNumber):
    def __init__(self) -> None:
        super().__init__(1)

    def step(self, action: int) -> Transition:
        return self.over(1.0)


class ProbeObservation(OneNumber):
    def __init__(self) -> None:
        super().__init__(1)

    def first_number(self) -> float:
        return self.random_sign()

    def step(self, action: int) -> Transition:
        return self.over(self.number)


class ProbeDiscount(OneNumber):
    def __init__(self) -> None:
        super().__init__(1)

    def step(self, action: int) -> Transition:
        if self.number == 1.0:
            return self.over(1.0)
        self.number = 1.0
        return self.running(0.0)


class ProbeAction(OneNumber):
    def __init__(self) -> None:
        super().__init__(2)

    def step(self, action: int) -> Transition:
        return self.over(1.0 if action == 1 else -1.0)


class ProbeObservationAction(OneNumber):
    def __init__(self) -> None:
        super().__init__(2)

    def first_number(self) -> float:
        return self.random_sign()

    def step(self, action: int) -> Transition:
        return self.over(self.number if action == 1 else -self.number)
