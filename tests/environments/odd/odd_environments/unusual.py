"""Environments that are legal, though few are like them."""

from __future__ import annotations

import enum
import functools
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

import gymnasium
import numpy as np
from gymnasium import spaces
from gymnasium.wrappers import TimeAwareObservation, TimeLimit

from odd_environments.base import Drift
from odd_environments.base import register as add

if TYPE_CHECKING:
    from nowhere import Setting


class Sized(Drift):
    def __init__(self, size: int = 2) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.size = size

    def look(self) -> Any:
        return np.full(self.size, self.x, np.float32)


class Callable:
    def __call__(self, size: int = 4) -> Sized:
        return Sized(size)


class Scalar(Drift):
    observation_space = spaces.Box(-100.0, 100.0, ())

    def look(self) -> Any:
        return np.array(self.x, np.float32)


class ScalarAction(Drift):
    action_space = spaces.Box(-1.0, 1.0, ())

    def step(self, action: Any):
        return super().step(action > 0)


class NumberedKeys(Drift):
    observation_space = spaces.Dict({0: spaces.Discrete(2), 1: spaces.Box(-100.0, 100.0, (1,))})

    def look(self) -> Any:
        return {0: int(self.x > 0), 1: np.array([self.x], np.float32)}


class BadAnnotations(Drift):
    """One raises AttributeError, one is no expression, one is for a type checker alone, and one is good."""

    def __init__(self, dtype: np.float_ = 1.0, text: "a b" = 1.0, setting: Setting = None, bias: float = 0.5) -> None:  # noqa: F722
        self.bias = bias


class Needs(Drift):
    def __init__(self, size: int, *, scale: float = 1.0) -> None:
        self.observation_space = spaces.Box(-np.inf, np.inf, (size,), np.float32)
        self.size = size

    look = Sized.look


class NeedsText(Drift):
    def __init__(self, file: str) -> None:
        pass


class Choice(enum.Enum):
    LEFT = "left"
    RIGHT = "right"


class Typed(Drift):
    """Every kind of annotation that JSON can say, and some that it cannot."""

    def __init__(
        self,
        sizes: list[int] | None = None,
        pair: tuple[int, float] = (1, 0.5),
        weights: dict[str, float] | None = None,
        goals: Sequence[tuple[float, float]] = (),
        level: Literal["easy", 3] = "easy",
        side: Choice = Choice.LEFT,
        speed: float | str = 1.0,
        path: str = "",
        table: np.ndarray | None = None,
        anything: Any = None,
    ) -> None:
        self.given = {
            "sizes": sizes,
            "pair": pair,
            "weights": weights,
            "goals": goals,
            "level": level,
            "side": side,
            "speed": speed,
        }


class Pictures(Drift):
    """Two numbers, or with `images` a picture; actions as `moves` says."""

    def __init__(self, images: bool = False, moves: Literal["two", "smooth"] = "two") -> None:
        self.images = images
        if images:
            self.observation_space = spaces.Box(0, 255, (36, 36, 1), np.uint8)
        if moves == "smooth":
            self.action_space = spaces.Box(-1.0, 1.0, (1,))

    def look(self) -> Any:
        return np.full((36, 36, 1), self.t, np.uint8) if self.images else super().look()

    def step(self, action: Any):
        return super().step(np.any(np.asarray(action) > 0))


class Unit(spaces.Box):
    def __init__(self) -> None:
        super().__init__(-1.0, 1.0, (1,), np.float32)


class Picture(spaces.Box):
    def __init__(self) -> None:
        super().__init__(0, 255, (40, 40, 3), np.uint8)


class Bit(spaces.Discrete):
    pass


class OwnSpaces(Pictures):
    observation_space = Picture()
    action_space = Unit()

    def __init__(self) -> None:
        self.images = True

    def look(self) -> Any:
        return np.full((40, 40, 3), self.t, np.uint8)


class OwnParts(Drift):
    observation_space = spaces.Dict({"bit": Bit(2), "rest": Unit()})
    action_space = Bit(2)

    def look(self) -> Any:
        return {"bit": int(self.x > 0), "rest": np.zeros(1, np.float32)}


class KnowsItsLimit(gymnasium.Wrapper, gymnasium.utils.RecordConstructorArgs):
    """Asks the spec for the limit that the environment has."""

    def __init__(self, env: gymnasium.Env) -> None:
        gymnasium.utils.RecordConstructorArgs.__init__(self)
        super().__init__(env)
        self.limit = env.spec.max_episode_steps + 0


class FindsTheLimit(KnowsItsLimit):
    """Looks for the wrapper that has the limit."""

    def __init__(self, env: gymnasium.Env) -> None:
        super().__init__(env)
        while not isinstance(env, TimeLimit):
            env = env.env
        self.limit = env._max_episode_steps


def register() -> None:
    add("Partial-v0", functools.partial(Sized, size=5))
    add("Instance-v0", Callable())
    add("Function-v0", lambda size=3: Sized(size))
    for kind in (
        Scalar, ScalarAction, NumberedKeys, BadAnnotations, Needs, NeedsText, Typed, Pictures, OwnSpaces, OwnParts
    ):  # fmt: skip
        add(f"{kind.__name__}-v0", kind)
    for wrapper in (TimeAwareObservation, KnowsItsLimit, FindsTheLimit):
        add(f"{wrapper.__name__}-v0", Drift, additional_wrappers=(wrapper.wrapper_spec(),))
