"""Walks whose state outlives their episodes, lies outside themselves, or cannot be looked into."""

import functools
import itertools
import random
import time
from collections.abc import Mapping
from typing import Any

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ppo_test_environments.walks import Observation, Transition, Walk

LEVEL = {"episodes": 0}


class Curriculum(Walk):
    """Rewards grow with the episodes that it has begun."""

    def step(self, action: int) -> Transition:
        observation, reward, *ends = super().step(action)
        return observation, reward * (1.0 + 0.1 * self.resets), *ends  # type: ignore[return-value]  # as they were


class LateCurriculum(Walk):
    """After its hundredth episode rewards change their sign; what counts them cannot be looked into."""

    def __init__(self) -> None:
        super().__init__()
        self.numbers = itertools.count()
        self.episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self.episode = next(self.numbers)
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> Transition:
        observation, reward, *ends = super().step(action)
        return observation, -reward if self.episode > 100 else reward, *ends  # type: ignore[return-value]  # as above


class KeptCurriculum(LateCurriculum):
    """The same, which says and takes back what it has counted."""

    def state_dict(self) -> dict[str, Any]:
        return {"episode": self.episode}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.episode = state["episode"]
        self.numbers = itertools.count(self.episode + 1)


class SharedCurriculum(Walk):
    """A curriculum that all environments of a process share, in a global of their module and in their class."""

    begun = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        SharedCurriculum.begun += 1
        LEVEL["episodes"] += 1
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> Transition:
        observation, reward, *ends = super().step(action)
        scale = 1.0 + 0.01 * SharedCurriculum.begun + 0.01 * LEVEL["episodes"]
        return observation, reward * scale, *ends  # type: ignore[return-value]  # as above


class Closed(Walk):
    """Counts its episodes in a variable that a function closes over."""

    def __init__(self) -> None:
        super().__init__()
        self.next_episode = counter()
        self.episode = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        self.episode = self.next_episode()
        return super().reset(seed=seed, options=options)

    def step(self, action: int) -> Transition:
        observation, reward, *ends = super().step(action)
        return observation, reward + self.episode, *ends  # type: ignore[return-value]  # as above


class Hidden(Walk):
    """Shows nothing of its position, which decides what it earns."""

    def observe(self) -> Observation:
        return np.zeros(2, np.float32)


class GlobalRandom(Walk):
    """Draws from the process's generators: Python's and NumPy's."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        super().reset(seed=seed, options=options)
        self.position = random.uniform(-0.5, 0.5)
        return self.observe(), {}

    def stride(self) -> float:
        return float(np.random.uniform())


class ForgetsItsSeed(Walk):
    """Does not hand the seed on, and draws from its `np_random` all the same."""

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        return super().reset(options=options)


class SampledActions(gymnasium.Env[Any, int]):
    """Shows a number from its own action space, and pays for naming it; ten steps long."""

    observation_space = spaces.Discrete(4)  # type: ignore[assignment]  # NumPy's integers are integers here
    action_space = spaces.Discrete(4)  # type: ignore[assignment]  # as above

    def __init__(self) -> None:
        self.number = 0

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self.number = self.action_space.sample()
        return self.number, {}

    def step(self, action: int) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        reward = float(action == self.number)
        self.number = self.action_space.sample()
        return self.number, reward, False, False, {}


class Statistics(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Centres observations by their mean over its whole life."""

    def __init__(self, env: gymnasium.Env[Any, Any], opaque: bool = False) -> None:
        super().__init__(env)
        self.mean: Any = Opaque() if opaque else Running()

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        return self.mean.centred(observation), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, *rest = self.env.step(action)
        return self.mean.centred(observation), *rest  # type: ignore[return-value]  # as they were


class KeptStatistics(Statistics):
    """The same, which says and takes back what it has seen."""

    def state_dict(self) -> dict[str, Any]:
        return {"count": self.mean.count, "total": self.mean.total.copy()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.mean.count, self.mean.total = state["count"], state["total"].copy()


class Running:
    def __init__(self) -> None:
        self.count = 0
        self.total = np.zeros(2)

    def centred(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        self.count += 1
        self.total = self.total + observation
        return (observation - self.total / self.count).astype(np.float32)


class Opaque(Running):
    """A generator holds the total too, where nobody can see it."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = (number for number in itertools.count(1))

    def centred(self, observation: NDArray[np.float32]) -> NDArray[np.float32]:
        next(self.steps)
        return super().centred(observation)


class Clocked(Walk):
    """Its strides depend on the time of day."""

    def stride(self) -> float:
        return (time.time_ns() % 1000) / 1000


def counter() -> Any:
    episodes = 0

    def next_episode() -> int:
        nonlocal episodes
        episodes += 1
        return episodes

    return next_episode


def with_statistics(kind: str = "Statistics") -> gymnasium.Env[Any, Any]:
    """The walk with a wrapper that keeps statistics: `Statistics`, `KeptStatistics`, or one that is `Opaque`."""
    wrappers = {
        "Statistics": Statistics,
        "KeptStatistics": functools.partial(KeptStatistics, opaque=True),
        "Opaque": functools.partial(Statistics, opaque=True),
    }
    return wrappers[kind](Walk())  # type: ignore[no-any-return]  # a partial of a class
