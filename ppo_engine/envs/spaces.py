"""Gymnasium's spaces as flat numbers: observations become rows of float32 or bytes, rows become actions."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Literal, TypeAlias

import numpy as np
from gymnasium import spaces
from numpy.typing import NDArray

from ppo_engine.errors import UnsupportedSpace
from ppo_engine.images import Image, image_of
from ppo_engine.squashing import within_float32

Observation: TypeAlias = Any
"""What an environment hands out: of whatever type its observation space says."""
Action: TypeAlias = Any
"""What an environment's `step` takes: of whatever type its action space says."""
Row: TypeAlias = NDArray[np.float32 | np.uint8]
"""[D]"""
Rows: TypeAlias = NDArray[np.float32 | np.uint8]
"""[..., D]: encoded observations, of bytes where the whole space is made of images, else of float32."""
ActionKind: TypeAlias = Literal["discrete", "box", "multi_discrete", "multi_binary", "dict", "tuple"]


class NotInSpace(ValueError):
    """An observation is not of its space's shape and type; the message says how."""


class ObservationEncoder:
    """Flattens the observations of one space into rows of float32, or of bytes where it is made of images alone.

    Box keeps its numbers, images among them; Discrete and each component of MultiDiscrete become one-hot; MultiBinary
    keeps its bits; Dict (in its space's order of keys) and Tuple are concatenated, to any depth.

    Attributes:
        size: features of a row (D).
        normalizable: [D] bool; False for one-hot and binary features, which are on a scale already.
        images: those of the space, in the order in which they lie in a row.
        dtype: of a row: uint8 where it holds nothing but images, else float32.
        may_overflow: whether the space holds numbers that float32 cannot.
    """

    def __init__(self, space: spaces.Space[Any]) -> None:
        """Raises UnsupportedSpace, naming the part of the space that cannot be flattened, or for a row of nothing."""
        self.size = flat_size(space)
        if not self.size:
            raise UnsupportedSpace("observations hold no numbers")
        self.encode_into = _writer(space, "observation")
        """Checks an observation and writes it into a row [D]; raises NotInSpace. Copies: nothing is aliased."""
        self.normalizable = np.zeros(self.size, dtype=np.bool_)
        _mark_measurements(space, self.normalizable)
        self.may_overflow = _is_wide(space)
        self.images = tuple(_images(space, 0))
        has_bytes_alone = self.size == sum(image.size for image in self.images)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if has_bytes_alone else np.float32)

    def encode(self, observation: Observation) -> Row:
        """The observation as a new row [D]; raises NotInSpace."""
        row: Row = np.empty(self.size, dtype=self.dtype)
        self.encode_into(observation, row)
        return row


@dataclass(frozen=True, eq=False)
class ActionSpace:
    """An action space as the policy sees it: rows of numbers.

    A row is int64 `[heads]` for the discrete kinds, each entry counted from 0, and float32 `[A]` for a Box, in the
    environment's units but unclipped. For a Dict or a Tuple it is the rows of its parts, one after another, in float32.
    """

    kind: ActionKind
    sizes: tuple[int, ...]
    """Choices of each head: `(n,)` for Discrete, one per component for MultiDiscrete, 2 per bit for MultiBinary;
    `(A,)` for a Box."""
    shape: tuple[int, ...]
    """Shape of the action that the environment takes; `()` for Discrete."""
    dtype: np.dtype[Any]
    low: NDArray[Any] | None = None
    """[A], Box only; may be infinite."""
    high: NDArray[Any] | None = None
    start: NDArray[np.int64] | None = None
    """[heads], added to Discrete and MultiDiscrete choices."""
    parts: tuple["ActionSpace", ...] = ()
    """Of a Dict or a Tuple, in its order."""
    keys: tuple[str, ...] = ()
    """Of a Dict, one for each part."""

    @property
    def leaves(self) -> tuple["ActionSpace", ...]:
        """The spaces that an action is made of, to any depth: itself, unless it is a Dict or a Tuple."""
        if self.kind not in ("dict", "tuple"):
            return (self,)
        return tuple(leaf for part in self.parts for leaf in part.leaves)

    @property
    def choices(self) -> tuple[int, ...]:
        """Choices of each head that there is something to choose for, those of all parts in their order."""
        return tuple(size for leaf in self.leaves if leaf.kind != "box" for size in leaf.sizes)

    @property
    def columns(self) -> int:
        """Entries of one action row: heads, or A, or those of all parts."""
        if self.parts:
            return sum(part.columns for part in self.parts)
        return self.sizes[0] if self.kind == "box" else len(self.sizes)

    @property
    def outputs(self) -> int:
        """Outputs of the policy for one observation: logits, or means; one logit per bit of a MultiBinary."""
        if self.parts:
            return sum(part.outputs for part in self.parts)
        return len(self.sizes) if self.kind == "multi_binary" else sum(self.sizes)

    @property
    def masks(self) -> int:
        """Columns of a row of action masks: one per choice, so 2 per bit; 0 where there is nothing to choose."""
        return sum(self.choices)

    @property
    def row_dtype(self) -> np.dtype[Any]:
        """float32 for a Box, a Dict and a Tuple, int64 otherwise."""
        return np.dtype(np.float32 if self.kind in ("box", "dict", "tuple") else np.int64)

    @property
    def is_bounded(self) -> bool:
        """Whether it is a Box with bounds on both sides that float32 can hold, or all Boxes in it are."""
        if self.parts:
            boxes = [leaf for leaf in self.leaves if leaf.kind == "box"]
            return bool(boxes) and all(box.is_bounded for box in boxes)
        if self.low is None or self.high is None:
            return False
        return bool((np.abs([self.low, self.high]) <= np.finfo(np.float32).max).all())

    def decode(self, row: NDArray[Any]) -> Action:
        """One row [heads] or [A] as the action that the environment takes: clipped to bounds, shaped and typed."""
        return self.decode_rows(np.asarray(row)[None])[0]

    def decoder(self, n_rows: int) -> Callable[[NDArray[Any]], list[Action]]:
        """`decode_rows` for so many rows at a time; what it costs for few is mostly laying bounds beside them."""
        if self.low is None or self.high is None:
            return self.decode_rows
        # Those of Boxes within a Dict or a Tuple are laid beside rows each time.
        return replace(self, low=np.tile(self.low, (n_rows, 1)), high=np.tile(self.high, (n_rows, 1))).decode_rows

    def decode_rows(self, rows: NDArray[Any]) -> list[Action]:
        """Rows [N, heads] or [N, A] as N actions; they share no memory with the rows."""
        if self.kind in ("dict", "tuple"):
            borders = np.cumsum([part.columns for part in self.parts])[:-1]
            pairs = zip(self.parts, np.split(rows, borders, axis=1), strict=True)
            actions = zip(*(part.decode_rows(own.astype(part.row_dtype)) for part, own in pairs), strict=True)
            return [dict(zip(self.keys, row, strict=True)) if self.kind == "dict" else row for row in actions]
        if self.kind == "discrete":
            start = 0 if self.start is None else int(self.start[0])
            return [choice + start for choice in rows[:, 0].tolist()] if start else list(rows[:, 0].tolist())
        return list(self.decode_batch(rows))

    def decode_batch(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Rows [N, heads] or [N, A] as one array [N, *shape], as a vector environment takes it."""
        if self.kind == "box":
            assert self.low is not None and self.high is not None
            numbers = np.rint(rows) if self.dtype.kind in "iu" else rows
            # Two ufuncs: np.clip's own checks cost several times as much on few rows.
            clipped: NDArray[Any] = np.minimum(np.maximum(numbers, self.low), self.high)
            if clipped.dtype is not self.dtype:
                clipped = clipped.astype(self.dtype)
            return clipped if len(self.shape) == 1 else clipped.reshape(len(rows), *self.shape)
        choices: NDArray[Any] = rows if self.start is None else rows + self.start
        return choices.reshape(len(rows), *self.shape).astype(self.dtype)


def action_space_of(space: spaces.Space[Any]) -> ActionSpace:
    """The engine's view of an action space. Raises UnsupportedSpace."""
    made = _action_space_of(space)
    if not made.outputs:
        raise UnsupportedSpace("its actions hold no numbers and no choices")
    return made


def _action_space_of(space: spaces.Space[Any]) -> ActionSpace:
    match space:
        case spaces.Discrete():
            return ActionSpace("discrete", (int(space.n),), (), np.dtype(np.int64), start=_start(space.start))
        case spaces.MultiDiscrete():
            sizes = tuple(int(n) for n in space.nvec.ravel())
            return ActionSpace("multi_discrete", sizes, space.shape, _dtype(space), start=_start(space.start))
        case spaces.MultiBinary():
            bits = (2,) * int(np.prod(space.shape))
            return ActionSpace("multi_binary", bits, space.shape, _dtype(space))
        case spaces.Box():
            size = (int(np.prod(space.shape)),)
            low, high = within_float32(space.low.ravel(), space.high.ravel())
            return ActionSpace("box", size, space.shape, _dtype(space), low, high)
        case spaces.Dict() | spaces.Tuple() if space.spaces:
            keys, parts = zip(*_parts(space), strict=True)
            made = tuple(map(_action_space_of, parts))
            if isinstance(space, spaces.Tuple):
                return ActionSpace("tuple", (), (), np.dtype(np.float32), parts=made)
            if not all(isinstance(key, str) for key in keys):
                raise UnsupportedSpace("keys of a Dict action space are not all strings")
            return ActionSpace("dict", (), (), np.dtype(np.float32), parts=made, keys=keys)
        case _:
            raise UnsupportedSpace(f"action space {type(space).__name__} is not supported")


def flat_size(space: spaces.Space[Any]) -> int:
    """Features of one flattened observation (D). Raises UnsupportedSpace."""
    match space:
        case spaces.Box() | spaces.MultiBinary():
            return int(np.prod(space.shape))
        case spaces.Discrete():
            return int(space.n)
        case spaces.MultiDiscrete():
            return int(space.nvec.sum())
        case spaces.Dict() | spaces.Tuple():
            return sum(flat_size(part) for _, part in _parts(space))
        case _:
            raise UnsupportedSpace(f"observation space {type(space).__name__} is not supported")


def _start(start: Any) -> NDArray[np.int64] | None:
    offsets = np.asarray(start, dtype=np.int64).ravel()
    return offsets if offsets.any() else None


def _dtype(space: spaces.Space[Any]) -> np.dtype[Any]:
    assert space.dtype is not None
    return np.dtype(space.dtype)


def _parts(space: spaces.Dict | spaces.Tuple[Any]) -> list[tuple[Any, spaces.Space[Any]]]:
    return list(space.spaces.items()) if isinstance(space, spaces.Dict) else list(enumerate(space.spaces))


def _mark_measurements(space: spaces.Space[Any], mask: NDArray[np.bool_]) -> None:
    if isinstance(space, spaces.Box):
        mask[:] = True
    elif isinstance(space, spaces.Dict | spaces.Tuple):
        end = 0
        for _, part in _parts(space):
            begin, end = end, end + flat_size(part)
            _mark_measurements(part, mask[begin:end])


def _is_wide(space: spaces.Space[Any]) -> bool:
    if isinstance(space, spaces.Dict | spaces.Tuple):
        return any(_is_wide(part) for _, part in _parts(space))
    return isinstance(space, spaces.Box) and not np.can_cast(_dtype(space), np.float32, casting="safe")


def _images(space: spaces.Space[Any], offset: int) -> Iterator[Image]:
    if isinstance(space, spaces.Box):
        image = image_of(space.shape, str(space.dtype), _only(space.low), _only(space.high))
        if image is not None:
            yield replace(image, offset=offset)
    elif isinstance(space, spaces.Dict | spaces.Tuple):
        for _, part in _parts(space):
            yield from _images(part, offset)
            offset += flat_size(part)


def _only(bound: NDArray[Any]) -> float | None:
    """The one number that a bound is made of; None where its numbers differ."""
    return float(bound.flat[0]) if bound.size and (bound == bound.flat[0]).all() else None


def _writer(space: spaces.Space[Any], name: str) -> Callable[[Observation, Row], None]:
    match space:
        case spaces.Box():
            return _array_writer(space.shape, _dtype(space), name)
        case spaces.MultiBinary():
            return partial(_write_bits, shape=space.shape, name=name)
        case spaces.Discrete():
            return partial(_write_choices, shape=(), sizes=np.array([space.n]), start=space.start, name=name)
        case spaces.MultiDiscrete():
            return partial(
                _write_choices, shape=space.shape, sizes=space.nvec.ravel(), start=space.start.ravel(), name=name
            )
        case spaces.Dict():
            return partial(_write_dict, parts=_part_writers(space, name), name=name)
        case spaces.Tuple():
            return partial(_write_tuple, parts=_part_writers(space, name), name=name)
        case _:
            raise UnsupportedSpace(f"{name}: space {type(space).__name__} is not supported")


PartWriter: TypeAlias = tuple[Any, slice, Callable[[Observation, Row], None]]


def _part_writers(space: spaces.Dict | spaces.Tuple[Any], name: str) -> list[PartWriter]:
    writers: list[PartWriter] = []
    end = 0
    for key, part in _parts(space):
        begin, end = end, end + flat_size(part)
        writers.append((key, slice(begin, end), _writer(part, f"{name}[{key!r}]")))
    return writers


def _array_writer(shape: tuple[int, ...], dtype: np.dtype[Any], name: str) -> Callable[[Observation, Row], None]:
    is_flat = len(shape) == 1

    def write(observation: Observation, row: Row) -> None:
        # What an environment should return, at a tenth of a microsecond; the rest is for those that come close.
        if type(observation) is np.ndarray and observation.dtype is dtype and observation.shape == shape:
            row[...] = observation if is_flat else observation.ravel()
            return
        array = _as_array(observation, name)
        if array.shape != shape:
            raise NotInSpace(f"{name} has shape {array.shape}, its space {shape}")
        if array.dtype.kind not in "biuf":
            raise NotInSpace(f"{name} is of type {array.dtype}, its space of {dtype}")
        with np.errstate(invalid="ignore"):
            numbers = array.astype(row.dtype)
        if row.dtype == np.uint8 and not np.array_equal(numbers, array):
            raise NotInSpace(f"{name} holds numbers that are no bytes from 0 to 255")
        row[...] = numbers.ravel()

    return write


def _write_bits(observation: Observation, row: Row, *, shape: tuple[int, ...], name: str) -> None:
    bits = _as_array(observation, name)
    if bits.shape != shape:
        raise NotInSpace(f"{name} has shape {bits.shape}, its space {shape}")
    if bits.dtype.kind not in "biu" or ((bits != 0) & (bits != 1)).any():
        raise NotInSpace(f"{name} is not made of zeros and ones")
    row[:] = bits.ravel()


def _write_choices(
    observation: Observation, row: Row, *, shape: tuple[int, ...], sizes: NDArray[Any], start: Any, name: str
) -> None:
    choices = _as_array(observation, name)
    if choices.shape != shape:
        raise NotInSpace(f"{name} has shape {choices.shape}, its space {shape}")
    if choices.dtype.kind not in "biu":
        raise NotInSpace(f"{name} is of type {choices.dtype}, its space holds integers")
    offsets = choices.ravel().astype(np.int64) - start
    if ((offsets < 0) | (offsets >= sizes)).any():
        raise NotInSpace(f"{name} is {choices.tolist()}, outside its space")
    row[:] = 0.0
    row[np.cumsum(sizes) - sizes + offsets] = 1.0


def _write_dict(observation: Observation, row: Row, *, parts: list[PartWriter], name: str) -> None:
    if not isinstance(observation, dict):
        raise NotInSpace(f"{name} is a {type(observation).__name__}, its space a Dict")
    for key, place, write in parts:
        if key not in observation:
            raise NotInSpace(f"{name} has no {key!r}")
        write(observation[key], row[place])


def _write_tuple(observation: Observation, row: Row, *, parts: list[PartWriter], name: str) -> None:
    if not isinstance(observation, tuple | list) or len(observation) != len(parts):
        raise NotInSpace(f"{name} is no tuple of {len(parts)} parts")
    for index, place, write in parts:
        write(observation[index], row[place])


def _as_array(observation: Observation, name: str) -> NDArray[Any]:
    try:
        return np.asarray(observation)
    except (ValueError, TypeError) as error:
        raise NotInSpace(f"{name} is a {type(observation).__name__}, no array: {error}") from None
