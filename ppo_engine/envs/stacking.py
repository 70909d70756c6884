"""The last k observations as one, so that a policy without memory sees what moves and how fast."""

from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import gymnasium
import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ppo_engine.envs.spaces import NotInSpace, Observation
from ppo_engine.errors import UnsupportedSpace

Join: TypeAlias = Callable[[Sequence[Observation]], Observation]
"""Makes one observation of k, the oldest first."""


class FrameStack(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Joins the last k observations, the oldest first; a reset fills all k with the first one.

    Images are joined along their channel axis, images without one get it; vectors are concatenated; the parts of Dict
    and Tuple are joined each by itself.
    """

    def __init__(self, env: gymnasium.Env[Any, Any], k: int) -> None:
        """Raises UnsupportedSpace where a part of the observation space cannot be joined."""
        super().__init__(env)
        self.observation_space = stacked_space(env.observation_space, k)
        self._join = _join_of(env.observation_space, "observation")
        self._copy = _copy_of(env.observation_space)
        self._frames: deque[Observation] = deque(maxlen=k)

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, info = self.env.reset(seed=seed, options=options)
        assert self._frames.maxlen is not None
        self._frames.extend([self._copy(observation)] * self._frames.maxlen)
        return self._join(self._frames), info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        observation, reward, terminated, truncated, info = self.env.step(action)
        # A copy, since the environment may write its next observation into the same array.
        self._frames.append(self._copy(observation))
        return self._join(self._frames), reward, terminated, truncated, info

    def frames(self) -> NDArray[Any]:
        """The last k observations, which are arrays, the oldest first: [k, ...]."""
        return np.stack(self._frames)

    def refill(self, frames: NDArray[Any]) -> Observation:
        """Takes back what `frames` gave, and returns the observation that they make."""
        self._frames.clear()
        self._frames.extend(frames.copy())
        return self._join(self._frames)


def stacked_space(space: spaces.Space[Any], k: int) -> spaces.Space[Any]:
    """The space of k joined observations. Raises UnsupportedSpace."""
    match space:
        case spaces.Box():
            join = _array_join(space, "bounds")
            low, high = join([space.low] * k), join([space.high] * k)
            stacked = spaces.Box(low, high, dtype=np.dtype(space.dtype).type)
            if is_image(space) and _channel_axis(stacked) != (_channel_axis(space) or 0):
                message = f"{k} images of shape {space.shape} would have as many channels as pixels a side"
                raise UnsupportedSpace(f"{message}, and which are which could not be told")
            return stacked
        case spaces.Discrete():
            return spaces.MultiDiscrete([int(space.n)] * k, start=[int(space.start)] * k)
        case spaces.MultiDiscrete():
            nvec, start = np.tile(space.nvec.ravel(), k), np.tile(space.start.ravel(), k)
            return spaces.MultiDiscrete(nvec, dtype=np.dtype(space.dtype).type, start=start)
        case spaces.MultiBinary():
            return spaces.MultiBinary(k * int(np.prod(space.shape)))
        case spaces.Dict():
            return spaces.Dict({key: stacked_space(part, k) for key, part in space.spaces.items()})
        case spaces.Tuple():
            return spaces.Tuple([stacked_space(part, k) for part in space.spaces])
        case _:
            raise UnsupportedSpace(f"observations of a {type(space).__name__} space cannot be stacked")


def is_image(space: spaces.Space[Any]) -> bool:
    """Whether a space is one of images: unsigned bytes in 2 axes, or in 3 of which one is the channel."""
    return isinstance(space, spaces.Box) and space.dtype == np.uint8 and len(space.shape) in (2, 3)


def _join_of(space: spaces.Space[Any], name: str) -> Join:
    match space:
        case spaces.Box():
            return _array_join(space, name)
        case spaces.Dict():
            parts = {key: _join_of(part, f"{name}[{key!r}]") for key, part in space.spaces.items()}
            return lambda frames: {key: join([_part(f, key, name) for f in frames]) for key, join in parts.items()}
        case spaces.Tuple():
            joins = [_join_of(part, f"{name}[{index}]") for index, part in enumerate(space.spaces)]
            return lambda frames: tuple(
                join([_part(f, index, name) for f in frames]) for index, join in enumerate(joins)
            )
        case spaces.Discrete() | spaces.MultiDiscrete() | spaces.MultiBinary():
            shape = () if isinstance(space, spaces.Discrete) else space.shape
            return lambda frames: np.concatenate([_checked(frame, shape, name).reshape(-1) for frame in frames])
        case _:
            raise UnsupportedSpace(f"observations of a {type(space).__name__} space cannot be stacked")


def _array_join(space: spaces.Box, name: str) -> Join:
    shape, axis = space.shape, _channel_axis(space)

    def join(frames: Sequence[Observation]) -> NDArray[Any]:
        arrays = [_checked(frame, shape, name) for frame in frames]
        return np.stack(arrays) if axis is None else np.concatenate(arrays, axis=axis)

    return join


def _channel_axis(space: spaces.Box) -> int | None:
    """The axis along which arrays are joined; None: a new one before all others."""
    if len(space.shape) == 1:
        return 0
    if is_image(space) and len(space.shape) == 3:
        # As Stable-Baselines3 finds it: channels are fewer than rows and columns.
        return 0 if int(np.argmin(space.shape)) == 0 else 2
    return None


def _checked(frame: Observation, shape: tuple[int, ...], name: str) -> NDArray[Any]:
    try:
        array = np.asarray(frame)
    except (ValueError, TypeError) as error:
        raise NotInSpace(f"{name} is a {type(frame).__name__}, no array: {error}") from None
    if array.shape != shape:
        raise NotInSpace(f"{name} has shape {array.shape}, its space {shape}")
    return array


def _part(frame: Observation, key: Any, name: str) -> Observation:
    try:
        return frame[key]
    except (TypeError, KeyError, IndexError):
        raise NotInSpace(f"{name} has no {key!r}") from None


def _copy_of(space: spaces.Space[Any]) -> Callable[[Observation], Observation]:
    """Copies what an observation holds, as far as it is of its space; what is not is found when it is joined."""
    match space:
        case spaces.Dict():
            copies = {key: _copy_of(part) for key, part in space.spaces.items()}
            return lambda frame: {key: copy(_part(frame, key, "observation")) for key, copy in copies.items()}
        case spaces.Tuple():
            each = [_copy_of(part) for part in space.spaces]
            return lambda frame: tuple(copy(_part(frame, i, "observation")) for i, copy in enumerate(each))
        case _:
            return _copied


def _copied(frame: Observation) -> Observation:
    """An array of a frame's own, whatever the environment hands out and writes into again."""
    try:
        # Not `np.array(frame)`: what is no array of NumPy may hand out its own memory all the same.
        return np.asarray(frame).copy()
    except (ValueError, TypeError):
        # What is no array is said when it is joined.
        return frame
