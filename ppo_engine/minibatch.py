"""Rows of a rollout as the learner sees them, and the order in which it sees them."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Literal, Self

import numpy as np
import torch
from torch import Tensor

from ppo_engine.advantages import normalized_advantages


@dataclass(frozen=True, slots=True)
class Minibatch:
    """Rows of a rollout, [B, ...] each; `log_probs`, `values` and `outputs` are those of the policy that acted.

    A column that is None is one that nothing needs. A subclass may have more columns.
    """

    of_all_rows: ClassVar[frozenset[str]] = frozenset({"log_std"})
    """Fields that are no column."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor
    outputs: Tensor | None = None
    """[B, outputs] of the action head: with `log_std`, all that the distribution depends on."""
    action_masks: Tensor | None = None
    """bool [B, choices]: what could be chosen."""
    mask: Tensor | None = None
    """bool [B]: False where a row has weight 0 in everything, such as padding. None: every row counts."""
    log_std: Tensor | None = None
    """The acting policy's, the same for all rows."""

    def map(self, function: Callable[[Tensor], Tensor]) -> Self:
        """Every column through `function`, which moves rows; what is `of_all_rows` stays."""
        return replace(self, **{name: function(column) for name, column in self.columns()})

    def rows(self, indices: Tensor) -> Self:
        """The rows [n, ...] of these indices, in their order."""
        return self.map(lambda column: column.index_select(0, indices))

    def split(self, size: int) -> Iterator[Self]:
        """Parts of `size` rows, in order; the last may be smaller."""
        names, columns = zip(*self.columns(), strict=True)
        for parts in zip(*(column.split(size) for column in columns), strict=True):
            yield replace(self, **dict(zip(names, parts, strict=True)))

    def cleared(self) -> Self:
        """The same, but with zeros in the rows that the mask leaves out: what they held can reach no gradient.

        A weight of zero does not suffice: 0 * NaN is NaN.
        """
        mask = self.mask
        if mask is None:
            return self

        def clear(column: Tensor) -> Tensor:
            return column.masked_fill(~mask.view(*mask.shape, *[1] * (column.ndim - mask.ndim)), 0)

        cleared = self.map(clear)
        if cleared.action_masks is None:
            return cleared
        # A row without any choice has no distribution.
        return replace(cleared, action_masks=cleared.action_masks | ~mask.unsqueeze(-1))

    def columns(self) -> list[tuple[str, Tensor]]:
        """Those that are there, by their names."""
        named = (
            (field.name, getattr(self, field.name)) for field in fields(self) if field.name not in self.of_all_rows
        )
        return [(name, column) for name, column in named if column is not None]


def shuffled_minibatches(
    batch: Minibatch,
    generator: np.random.Generator,
    *,
    batch_size: int,
    normalize_advantage: Literal["minibatch", "batch", "off"],
) -> Iterator[Minibatch]:
    """One epoch: every row once, in an order drawn from `generator`; the last minibatch may be smaller."""
    rows = len(batch.values)
    shuffled = batch.rows(torch.from_numpy(generator.permutation(rows)).to(batch.values.device))
    if normalize_advantage == "minibatch":
        shuffled = replace(shuffled, advantages=_normalized_in_parts(shuffled, batch_size))
    yield from shuffled.split(batch_size)


def _normalized_in_parts(batch: Minibatch, size: int) -> Tensor:
    """The advantages [B], normalised in each part of `size` rows; all whole parts in one call."""
    rows = len(batch.advantages)
    whole = rows - rows % size

    def normalized(part: slice, shape: tuple[int, ...]) -> Tensor:
        mask = None if batch.mask is None else batch.mask[part].view(shape)
        return normalized_advantages(batch.advantages[part].view(shape), mask).flatten()

    parts = [normalized(slice(whole), (-1, size))]
    parts += [normalized(slice(whole, rows), (-1,))] if whole < rows else []
    return torch.cat(parts)
