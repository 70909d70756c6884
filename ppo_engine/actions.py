"""What the outputs of a policy mean as actions. NumPy only, since readers of a bundle need it."""

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, ClassVar, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from ppo_engine.manifest_model import ManifestModel
from ppo_engine.squashing import squashed, within_float32

Actions: TypeAlias = NDArray[np.float32] | NDArray[np.int64]
"""One row per observation: float32 [n, A] for Box, which only a squashing policy keeps within the bounds; int64
[n, heads] for the discrete kinds; float32 for Dict and Tuple."""

IMPOSSIBLE = -1e30
"""The logit of what is not valid."""

Bounds: TypeAlias = Annotated[tuple[float | None, ...], Field(strict=False)]
Integers: TypeAlias = Annotated[tuple[int, ...], Field(strict=False)]


class ActionManifest(ManifestModel):
    """What the environment takes as an action."""

    later: ClassVar[frozenset[str]] = frozenset({"parts", "keys"})

    kind: Literal["discrete", "box", "multi_discrete", "multi_binary", "dict", "tuple"]
    sizes: Integers
    """Choices of each head, 2 for each bit of MultiBinary; for Box the one number A; () for Dict and Tuple."""
    shape: Integers
    """Shape of one action as the environment takes it; () for Discrete, Dict and Tuple."""
    dtype: str
    low: Bounds = ()
    """Bounds of Box, flat; null where there is none."""
    high: Bounds = ()
    start: Integers = ()
    """The smallest choice of each discrete head, 0 if empty."""
    parts: Annotated[tuple["ActionManifest", ...], Field(strict=False)] = ()
    """Of Dict and Tuple: rows, heads, masks and log-stds hold those of the parts, one after another."""
    keys: Annotated[tuple[str, ...], Field(strict=False)] = ()
    """Of Dict, one for each part."""

    @property
    def leaves(self) -> tuple["ActionManifest", ...]:
        """The spaces that an action is made of, to any depth: itself, unless it is a Dict or a Tuple."""
        if self.kind not in ("dict", "tuple"):
            return (self,)
        return tuple(leaf for part in self.parts for leaf in part.leaves)

    @property
    def columns(self) -> int:
        """Entries of an action row."""
        return sum(leaf.sizes[0] if leaf.kind == "box" else len(leaf.sizes) for leaf in self.leaves)

    @property
    def heads(self) -> int:
        """Logits and means."""
        return sum(len(leaf.sizes) if leaf.kind == "multi_binary" else sum(leaf.sizes) for leaf in self.leaves)

    @property
    def masks(self) -> int:
        """Entries of a row of action masks."""
        return sum(sum(leaf.sizes) for leaf in self.leaves if leaf.kind != "box")

    @property
    def numbers(self) -> int:
        """Real numbers, each of which has a standard deviation."""
        return sum(leaf.sizes[0] for leaf in self.leaves if leaf.kind == "box")


def by_leaf(rows: NDArray[Any], widths: Sequence[int]) -> list[NDArray[Any]]:
    """Columns of rows [n, sum(widths)], so many for each leaf."""
    return np.split(rows, np.cumsum(widths)[:-1], axis=1)


def masked_heads(heads: NDArray[np.float32], masks: NDArray[np.bool_] | None, space: ActionManifest) -> Any:
    """Logits and means [n, heads] under which what is not valid has probability 0.

    Args:
        masks: [n, masks]; of a bit, the first column says whether it may be 0, the second whether it may be 1.
    """
    if masks is None:
        return heads
    leaves = space.leaves
    pairs = zip(
        leaves,
        by_leaf(heads, [leaf.heads for leaf in leaves]),
        by_leaf(masks, [leaf.masks for leaf in leaves]),
        strict=True,
    )
    return np.concatenate([_masked(leaf, own, mask) for leaf, own, mask in pairs], axis=1)


def _masked(leaf: ActionManifest, heads: NDArray[np.float32], masks: NDArray[np.bool_]) -> NDArray[np.float32]:
    if leaf.kind == "box":
        return heads
    if leaf.kind == "multi_binary":
        heads = np.where(masks[:, 1::2], heads, np.float32(IMPOSSIBLE))
        return np.where(masks[:, 0::2], heads, np.float32(-IMPOSSIBLE))
    return np.where(masks, heads, np.float32(IMPOSSIBLE))


def likeliest_actions(heads: NDArray[np.float32], space: ActionManifest) -> Actions:
    """The mode of each row's distribution, as action rows."""
    leaves = space.leaves
    parts = by_leaf(heads, [leaf.heads for leaf in leaves])
    return _joined([_likeliest(leaf, own) for leaf, own in zip(leaves, parts, strict=True)])


def sampled_actions(
    heads: NDArray[np.float32], log_stds: NDArray[np.float32], space: ActionManifest, generator: np.random.Generator
) -> Actions:
    """Action rows drawn from each row's distribution; `log_stds` [n, numbers] are those of all Boxes."""
    leaves = space.leaves
    rows = zip(
        leaves,
        by_leaf(heads, [leaf.heads for leaf in leaves]),
        by_leaf(log_stds, [leaf.numbers for leaf in leaves]),
        strict=True,
    )
    return _joined([_sampled(leaf, own, std, generator) for leaf, own, std in rows])


def squashed_actions(rows: Actions, space: ActionManifest) -> Actions:
    """Action rows whose numbers are brought between the bounds of their Boxes."""
    leaves = space.leaves
    pairs = zip(leaves, by_leaf(rows, [leaf.columns for leaf in leaves]), strict=True)
    return _joined([squashed(own, *bounds(leaf)) if leaf.kind == "box" else own for leaf, own in pairs])


def environment_actions(rows: Actions, space: ActionManifest) -> Any:
    """Action rows as the environment takes them, [n, *shape]: clipped to the bounds, or counted from `start`.

    For Dict and Tuple, a dict or a tuple of such arrays.
    """
    if space.kind in ("dict", "tuple"):
        own = by_leaf(rows, [part.columns for part in space.parts])
        parts = tuple(environment_actions(columns, part) for part, columns in zip(space.parts, own, strict=True))
        return dict(zip(space.keys, parts, strict=True)) if space.kind == "dict" else parts
    if space.kind == "box":
        low, high = bounds(space)
        numbers = np.rint(rows) if is_integer(space) else rows
        return np.clip(numbers, low, high).reshape(len(rows), *space.shape).astype(space.dtype)
    offsets = np.asarray(space.start or [0], dtype=np.int64)
    return (rows.astype(np.int64) + offsets).reshape(-1, *space.shape).astype(space.dtype)


def named_leaves(space: ActionManifest, name: str = "actions") -> Iterator[tuple[str, ActionManifest]]:
    """The leaves with their places as names: `actions/arm/0`; `actions` for a space that has no parts.

    As in a JSON Pointer (RFC 6901), `~` and `/` within a key are `~0` and `~1`: no two leaves have one name.
    """
    if space.kind not in ("dict", "tuple"):
        yield name, space
        return
    for key, part in zip(space.keys or range(len(space.parts)), space.parts, strict=True):
        yield from named_leaves(part, f"{name}/{str(key).replace('~', '~0').replace('/', '~1')}")


def _likeliest(leaf: ActionManifest, heads: NDArray[np.float32]) -> Actions:
    if leaf.kind == "box":
        return heads
    if leaf.kind == "multi_binary":
        return (heads > 0).astype(np.int64)
    return np.stack([block.argmax(axis=1) for block in by_leaf(heads, leaf.sizes)], axis=1)


def _sampled(
    leaf: ActionManifest, heads: NDArray[np.float32], log_stds: NDArray[np.float32], generator: np.random.Generator
) -> Actions:
    if leaf.kind == "box":
        noise = generator.standard_normal(heads.shape, dtype=np.float32)
        std: NDArray[np.float32] = np.exp(log_stds)
        return heads + std * noise
    if leaf.kind == "multi_binary":
        # 1 / (1 + exp(-x)), which overflows nowhere in this form.
        bits: NDArray[np.bool_] = generator.random(heads.shape) < 0.5 + 0.5 * np.tanh(0.5 * heads)
        return bits.astype(np.int64)
    return _likeliest(leaf, (heads + generator.gumbel(size=heads.shape)).astype(np.float32))


def _joined(parts: list[Actions]) -> Actions:
    if len(parts) == 1:
        return parts[0]
    return np.concatenate([part.astype(np.float32) for part in parts], axis=1)


def bounds(space: ActionManifest) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The bounds of Box, infinite where there are none; what is between them is in the Box, whatever its type."""
    low = np.array([-np.inf if bound is None else bound for bound in space.low], dtype=np.float64)
    high = np.array([np.inf if bound is None else bound for bound in space.high], dtype=np.float64)
    return within_float32(low, high)


def is_integer(space: ActionManifest) -> bool:
    """Whether the environment takes integers, so that numbers of a Box are rounded first."""
    return np.dtype(space.dtype).kind in "iu"
