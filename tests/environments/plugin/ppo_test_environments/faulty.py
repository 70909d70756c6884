from typing import Any

import numpy as np
from gymnasium import spaces

from ppo_test_environments.walks import Observation, Walk


class FaultyStep(Walk):
    """Walks, and from step `at_step` of its life on returns what `spoil` makes of a step."""

    def __init__(self, at_step: int = 5) -> None:
        super().__init__()
        self.at_step = at_step

    def step(self, action: int) -> Any:
        transition = super().step(action)
        return transition if self.steps < self.at_step else self.spoil(*transition)

    def spoil(self, observation: Observation, reward: float, terminated: bool, truncated: bool, extra: Any) -> Any:
        raise NotImplementedError


class RaisesInConstructor(Walk):
    def __init__(self) -> None:
        raise RuntimeError("this environment cannot be made")


class RaisesInReset(Walk):
    def __init__(self, at_reset: int = 0) -> None:
        super().__init__()
        self.at_reset = at_reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        if self.resets >= self.at_reset:
            raise RuntimeError("this environment cannot be reset")
        return super().reset(seed=seed, options=options)


class NaNInReset(Walk):
    def __init__(self, at_reset: int = 0) -> None:
        super().__init__()
        self.at_reset = at_reset

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> Any:
        observation, extra = super().reset(seed=seed, options=options)
        return (np.full_like(observation, np.nan) if self.resets > self.at_reset else observation), extra


class RaisesInStep(FaultyStep):
    def spoil(self, *transition: Any) -> Any:
        raise RuntimeError("this environment cannot be stepped")


class ExitsInStep(FaultyStep):
    def spoil(self, *transition: Any) -> Any:
        raise SystemExit(4)


class NaNObservation(FaultyStep):
    def spoil(self, observation: Observation, *rest: Any) -> Any:
        return np.array([observation[0], np.nan], np.float32), *rest


class InfiniteObservation(FaultyStep):
    def spoil(self, observation: Observation, *rest: Any) -> Any:
        return np.array([-np.inf, observation[1]], np.float32), *rest


class OutsideItsSpace(FaultyStep):
    """Its positions may be from -10 to 10, and are `far` in the end."""

    observation_space = spaces.Box(np.array([-10.0, -np.inf], np.float32), np.array([10.0, np.inf], np.float32))

    def __init__(self, at_step: int = 5, far: float = 12.5) -> None:
        super().__init__(at_step)
        self.far = far

    def spoil(self, observation: Observation, *rest: Any) -> Any:
        return np.array([self.far, 1e6], np.float32), *rest


class OutsideItsIntegers(FaultyStep):
    observation_space = spaces.Box(-1000, 1000, (2,), np.int64)

    def observe(self) -> Any:
        return super().observe().astype(np.int64)

    def spoil(self, observation: Observation, *rest: Any) -> Any:
        return np.array([1001, 0]), *rest


class HugeObservation(FaultyStep):
    observation_space = spaces.Box(-np.inf, np.inf, (2,), np.float64)

    def spoil(self, observation: Observation, *rest: Any) -> Any:
        return np.array([1e300, 0.0]), *rest


class NaNReward(FaultyStep):
    def spoil(self, observation: Observation, reward: float, *rest: Any) -> Any:
        return observation, float("nan"), *rest


class InfiniteReward(FaultyStep):
    def spoil(self, observation: Observation, reward: float, *rest: Any) -> Any:
        return observation, float("inf"), *rest


class WrongShape(FaultyStep):
    def spoil(self, observation: Observation, *rest: Any) -> Any:
        return observation[:1], *rest


class WrongType(FaultyStep):
    def spoil(self, observation: Observation, *rest: Any) -> Any:
        return np.array(["left", "right"]), *rest


class ArrayReward(FaultyStep):
    def spoil(self, observation: Observation, reward: float, *rest: Any) -> Any:
        return observation, np.array([reward]), *rest


class TextReward(FaultyStep):
    def spoil(self, observation: Observation, reward: float, *rest: Any) -> Any:
        return observation, "much", *rest


class NumberEnd(FaultyStep):
    def spoil(self, observation: Observation, reward: float, terminated: bool, *rest: Any) -> Any:
        return observation, reward, 0, *rest


class ShortStep(FaultyStep):
    def spoil(self, observation: Observation, reward: float, terminated: bool, truncated: bool, extra: Any) -> Any:
        return observation, reward, terminated, extra
