"""Sequences of a rollout: what an environment went through in some steps, and the state that it began with."""

from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from typing import ClassVar, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.minibatch import Minibatch
from ppo_engine.rollout import Rollout


@dataclass(frozen=True, slots=True, kw_only=True)
class RecurrentRollout(Rollout):
    """A rollout with what a policy with memory knew."""

    states: Tensor
    """[K, N, M]: the states that steps 0, L, 2L, ... were acted from, once zeroed where `starts` says so."""
    starts: NDArray[np.bool_]
    """[T, N]: an episode starts with this step, or something that is no step. The first row may say nothing of it: its
    states are zeroed already where that is so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sequences(Minibatch):
    """S sequences of L steps as rows, the first step of all sequences first: row `t * S + s` is step t of sequence s.

    Sequences that end early are padded, with rows that the mask leaves out.
    """

    of_all_rows: ClassVar[frozenset[str]] = frozenset({"log_std", "states"})

    starts: Tensor
    """bool [L * S], where the state is zeroed first."""
    states: Tensor
    """[S, M] before the first step."""

    @property
    def shape(self) -> tuple[int, int]:
        """L and S."""
        count = len(self.states)
        return len(self.values) // count, count

    def of(self, sequences: Tensor) -> Self:
        """The sequences of these indices, in their order."""
        length, count = self.shape

        def chosen(column: Tensor) -> Tensor:
            return column.view(length, count, *column.shape[1:]).index_select(1, sequences).flatten(0, 1)

        return replace(self.map(chosen), states=self.states.index_select(0, sequences))


def sequences_of(batch: Minibatch, rollout: RecurrentRollout, *, length: int) -> Sequences:
    """A rollout cut into sequences of `length` steps, environment by environment.

    Args:
        batch: the columns of the rollout, [T, N, ...].
    """
    steps = len(rollout.starts)
    count = -(-steps // length)
    missing = count * length - steps
    device = batch.values.device

    def cut(column: Tensor) -> Tensor:
        """[T, N, ...] → [L * K * N, ...], zeroed where there is no such step."""
        if missing:
            column = torch.cat([column, column.new_zeros(missing, *column.shape[1:])])
        return column.view(count, length, *column.shape[1:]).transpose(0, 1).flatten(0, 2)

    rows = batch.map(cut)
    mask = None
    if missing or not rollout.valid.all():
        mask = cut(torch.from_numpy(rollout.valid).to(device))
    columns = {field.name: getattr(rows, field.name) for field in fields(rows)}
    return Sequences(
        **{**columns, "mask": mask},
        starts=cut(torch.from_numpy(rollout.starts).to(device)),
        states=rollout.states.flatten(0, 1),
    )


def shuffled_sequences(batch: Sequences, generator: np.random.Generator, *, batch_size: int) -> Iterator[Sequences]:
    """One epoch: every sequence once, in an order drawn from `generator`, in parts of about `batch_size` rows.

    There are as few parts as `batch_size` admits, and they are as equal as whole sequences can be.
    """
    order = torch.from_numpy(generator.permutation(len(batch.states))).to(batch.values.device)
    return parts_of(batch, order, rows=batch_size)


def parts_of(batch: Sequences, order: Tensor, *, rows: int) -> Iterator[Sequences]:
    """The sequences in that order, in as few parts of about so many rows as there can be."""
    length, count = batch.shape
    for indices in order.tensor_split(-(-count // max(1, rows // length))):
        yield batch.of(indices)
