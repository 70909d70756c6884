from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ppo_test_environments.walks import Walk


class DictObservation(Walk):
    observation_space = spaces.Dict(
        {
            "where": spaces.Box(-np.inf, np.inf, (2,), np.float32),
            "phase": spaces.Discrete(3),
            "rest": spaces.Tuple((spaces.MultiBinary(2), spaces.MultiDiscrete([2, 3]))),
        }
    )

    def observe(self) -> dict[str, Any]:
        time = self.time
        bits = np.array([time % 2, self.position > 0], np.int8)
        return {
            "where": super().observe(),
            "phase": time % 3,
            "rest": (bits, np.array([time % 2, time % 3], np.int64)),
        }


class TupleObservation(Walk):
    observation_space = spaces.Tuple((spaces.Discrete(4, start=3), spaces.Box(-1.0, 1.0, (2, 2), np.float64)))

    def observe(self) -> tuple[int, NDArray[np.float64]]:
        numbers = np.clip(np.array([[self.position, -self.position], [0.5, -0.5]]), -1.0, 1.0)
        return 3 + self.time % 4, numbers


class Matching(gymnasium.Env[NDArray[np.float32], Any]):
    """Rewards the share of the action's entries that equal `wanted`."""

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    wanted: Any

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return np.zeros(1, np.float32), {}

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        reward = float(np.mean(np.isclose(action, self.wanted, atol=0.5)))
        return np.zeros(1, np.float32), reward, False, False, {}


class MultiDiscreteAction(Matching):
    action_space = spaces.MultiDiscrete([3, 2])
    wanted = np.array([2, 1])


class MatrixAction(Matching):
    action_space = spaces.MultiDiscrete(np.array([[2, 3], [4, 2]]))
    wanted = np.array([[1, 2], [3, 0]])


class MultiBinaryAction(Matching):
    action_space = spaces.MultiBinary(3)
    wanted = np.array([1, 0, 1])


class OffsetAction(Matching):
    action_space = spaces.Discrete(3, start=-1)
    wanted = -1


class AsymmetricAction(Matching):
    action_space = spaces.Box(np.array([-3.0, 0.0], np.float32), np.array([1.0, 10.0], np.float32))
    wanted = np.array([-2.0, 1.0])


class MatrixBoxAction(Matching):
    action_space = spaces.Box(-1.0, 1.0, (2, 2), np.float32)
    wanted = np.array([[0.5, -0.5], [0.5, -0.5]])


class DictAction(Matching):
    action_space = spaces.Dict({"move": spaces.Discrete(2), "say": spaces.Discrete(3)})
    wanted = 0
