from typing import Any, Literal

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


class TextAction(Matching):
    action_space = spaces.Text(5)
    wanted = ""


class DictAction(gymnasium.Env[NDArray[np.float32], Any]):
    """One of two states at random; rewards the share of the parts that are as they are wanted in that state.

    In state 1 `move` may not be 1, the first bit must be 1 and `say` may not be (1, 2): where there are no masks that
    costs a reward, where there are, it raises ValueError.
    """

    observation_space = spaces.Box(-1.0, 1.0, (1,), np.float32)
    action_space = spaces.Dict(
        {
            "arm": spaces.Tuple((spaces.Box(-2.0, 4.0, (2,), np.float32), spaces.MultiBinary(2))),
            "move": spaces.Discrete(3, start=-1),
            "say": spaces.MultiDiscrete([2, 3]),
        }
    )

    def __init__(self, masks: Literal["none", "parts", "flat", "short part"] = "none") -> None:
        self.masks = masks

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[NDArray[np.float32], dict[str, Any]]:
        super().reset(seed=seed)
        return self.arrive()

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        (numbers, bits), move, say = action["arm"], action["move"], action["say"]
        forbidden = self.state == 1 and (move == 1 or bits[0] == 0 or (say == [1, 2]).any())
        if forbidden and self.masks != "none":
            raise ValueError(f"{action!r} is not valid in state {self.state}")
        sign = 1 if self.state == 1 else -1
        right = [*(np.abs(numbers - [1 + sign, 1]) < 0.7), bits[1] == 1, move == (0 if sign > 0 else 1), say[1] == 1]
        return (*self.arrive()[:1], float(np.mean(right)), False, False, self.info())

    def arrive(self) -> tuple[NDArray[np.float32], dict[str, Any]]:
        self.state = int(self.np_random.integers(2))
        return np.array([2.0 * self.state - 1], np.float32), self.info()

    def info(self) -> dict[str, Any]:
        free = self.state == 0
        bits, move, say = np.array([free, 1, 1, 1]), np.array([1, 1, free]), np.array([1, free, 1, 1, free])
        by_part = {"arm": (None, bits), "move": move, "say": [say[:2], say[2:]]}
        flat = np.concatenate([bits, move, say]).astype(np.bool_)
        given = {"none": None, "parts": by_part, "flat": flat, "short part": {**by_part, "move": move[:2]}}[self.masks]
        return {} if given is None else {"action_mask": given}


class TupleAction(Matching):
    action_space = spaces.Tuple((spaces.Discrete(3), spaces.Box(-1.0, 1.0, (2,), np.float32)))

    def step(self, action: Any) -> tuple[NDArray[np.float32], float, bool, bool, dict[str, Any]]:
        if not self.action_space.contains(action):
            raise ValueError(f"{action!r} is not in {self.action_space}")
        right = [action[0] == 2, *(np.abs(action[1] - [0.5, -0.5]) < 0.4)]
        return np.zeros(1, np.float32), float(np.mean(right)), False, False, {}
