"""Environments whose observations do not tell all that there is to know: earlier ones are needed."""

from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.envs.classic_control.cartpole import CartPoleEnv

from ppo_test_environments.walks import Observation, Transition

FORWARD, LEFT, RIGHT = range(3)


class CartPolePositions(CartPoleEnv):
    """CartPole without velocities: what is seen are the cart's position and the pole's angle."""

    def __init__(self) -> None:
        super().__init__()
        low, high = self.observation_space.low[::2], self.observation_space.high[::2]
        self.observation_space = spaces.Box(low, high, dtype=np.float32)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        observation, told = super().reset(seed=seed, options=options)
        return observation[::2], told

    def step(self, action: int) -> Transition:
        observation, reward, terminated, truncated, told = super().step(action)
        return observation[::2], float(reward), terminated, truncated, told


class TMaze(gymnasium.Env[Observation, int]):
    """A corridor of `delay` steps, whose first place shows which way to turn at its end: +1 there if so, else -1.

    The observation is the sign, 0 but in the first place, and whether this is the end. Turning elsewhere leads nowhere
    and costs 0.1; going on at the end does, too. Without memory no more than half of the turns are right.
    Source: Bakker 2002, "Reinforcement Learning with Long Short-Term Memory"
    """

    observation_space: spaces.Space[Observation] = spaces.Box(-1, 1, (2,), np.float32)

    def __init__(self, delay: int = 20) -> None:
        self.action_space = spaces.Discrete(3)  # type: ignore[assignment]  # NumPy's integers are integers here
        self._delay, self._place, self._sign = delay, 0, 1.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed)
        self._place, self._sign = 0, 1.0 if self.np_random.random() < 0.5 else -1.0
        return self._seen(), {}

    def step(self, action: int) -> Transition:
        at_end = self._place == self._delay
        if at_end and action != FORWARD:
            reward = 1.0 if (action == RIGHT) == (self._sign > 0) else -1.0
            return self._seen(), reward, True, False, {}
        if at_end or action != FORWARD:
            return self._seen(), -0.1, False, False, {}
        self._place += 1
        return self._seen(), 0.0, False, False, {}

    def _seen(self) -> Observation:
        return np.array([self._sign if self._place == 0 else 0.0, self._place == self._delay], np.float32)
