"""Action masks as environments give them, as one flat row of booleans: one per choice of each head, in their order."""

from collections.abc import Callable
from typing import Any, Protocol, TypeAlias, runtime_checkable

import gymnasium
import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.spaces import ActionSpace, NotInSpace, action_space_of

Mask: TypeAlias = Any
"""What an environment hands out: a flat array, or a sequence of arrays, one per head."""
MaskRow: TypeAlias = NDArray[np.bool_]
INFO_KEY, METHOD = "action_mask", "action_masks"


@runtime_checkable
class GivesMasks(Protocol):
    """A vector environment whose spec asks for action masks."""

    @property
    def action_masks(self) -> NDArray[np.bool_] | None:
        """[N, masks]: what may be done at the observations where the environments stand; None: nothing was asked."""


class MaskedEnvironment(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps what an environment said about its actions last: in `info["action_mask"]`, or by `action_masks()`.

    The method, which wrappers may pass on, is asked where `info` has no mask. Source of both names: Gymnasium's
    `Space.sample` and Stable-Baselines3-contrib's MaskablePPO.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        super().__init__(env)
        self._space = action_space_of(env.action_space)
        self._starts = np.cumsum([0, *self._space.choices[:-1]])
        self._method = masks_method(env)
        self._info: dict[str, Any] = {}

    def reset(self, *, seed: int | None = None, options: dict[str, Any] | None = None) -> tuple[Any, dict[str, Any]]:
        observation, self._info = self.env.reset(seed=seed, options=options)
        return observation, self._info

    def step(self, action: Any) -> Any:
        transition = self.env.step(action)
        self._info = transition[-1]
        return transition

    def write_mask(self, row: MaskRow) -> None:
        """Writes the mask of the next action into a row [masks]. Raises NotInSpace where there is none that fits."""
        mask = self._info.get(INFO_KEY)
        if mask is None:
            if self._method is None:
                raise NotInSpace(f'no action mask: it has no {METHOD}(), and info no "{INFO_KEY}"')
            mask = self._method()
        write_mask(mask, self._space, row)
        possible = np.logical_or.reduceat(row, self._starts)
        if not possible.all():
            head = int(possible.argmin())
            which = f" {head} of {len(possible)}" if len(possible) > 1 else ""
            raise NotInSpace(f"action mask leaves no valid choice to head{which}")


def masks_method(env: gymnasium.Env[Any, Any]) -> Callable[[], Mask] | None:
    """The environment's method that gives masks, or that of what it wraps; None where there is none."""
    method = env.get_wrapper_attr(METHOD) if env.has_wrapper_attr(METHOD) else None
    return method if callable(method) else None


def write_mask(mask: Mask, space: ActionSpace, row: MaskRow) -> None:
    """Writes a mask, flat or by heads, into a row [masks]; raises NotInSpace where it does not fit the space."""
    if type(mask) is np.ndarray and mask.dtype == np.bool_ and mask.shape == row.shape:
        row[...] = mask
        return
    flat = _flat(mask, space)
    if flat.shape != row.shape:
        raise NotInSpace(f"action mask has {flat.size} entries, its space {row.size} choices")
    if flat.dtype.kind not in "biu" or ((flat != 0) & (flat != 1)).any():
        raise NotInSpace(f"action mask is of {flat.dtype}, not made of booleans")
    row[...] = flat != 0


def _flat(mask: Mask, space: ActionSpace) -> NDArray[Any]:
    is_by_parts = isinstance(mask, dict) or (isinstance(mask, tuple | list) and len(mask) == len(space.parts))
    if space.parts and is_by_parts and not (isinstance(mask, tuple | list) and all(np.ndim(p) == 0 for p in mask)):
        return _flat_parts(mask, space)
    is_by_heads = isinstance(mask, list | tuple | np.ndarray) and len(mask) == len(space.sizes)
    if not is_by_heads or all(np.ndim(part) == 0 for part in mask):
        return _array(mask).ravel()
    parts = [_array(part).ravel() for part in mask]
    for head, (part, size) in enumerate(zip(parts, space.sizes, strict=True)):
        if part.size != size:
            raise NotInSpace(f"action mask of head {head} has {part.size} entries, not {size}")
    return np.concatenate(parts)


def _flat_parts(mask: Mask, space: ActionSpace) -> NDArray[Any]:
    """The masks of the parts that have something to choose, one after another."""
    names = space.keys if space.kind == "dict" else range(len(space.parts))
    flat: list[NDArray[Any]] = []
    for name, part in zip(names, space.parts, strict=True):
        if not part.masks:
            continue
        if isinstance(mask, dict) and name not in mask:
            raise NotInSpace(f"action mask has no {name!r}")
        own = _flat(mask[name], part)
        if own.size != part.masks:
            raise NotInSpace(f"action mask of {name!r} has {own.size} entries, not {part.masks}")
        flat.append(own)
    return np.concatenate(flat)


def _array(mask: Mask) -> NDArray[Any]:
    try:
        return np.asarray(mask)
    except (ValueError, TypeError) as error:
        raise NotInSpace(f"action mask is a {type(mask).__name__}, no array: {error}") from None
