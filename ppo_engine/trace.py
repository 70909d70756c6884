"""What an update leaves behind, and whether all of it is finite."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.errors import TrainingDiverged
from ppo_engine.loss import LossTerms
from ppo_engine.policy import Policy


@dataclass
class Trace:
    """What an update leaves behind: a row per minibatch."""

    terms: list[LossTerms] = field(default_factory=list)
    norms: list[Tensor] = field(default_factory=list)
    """The gradient's norm of each minibatch that led to a step."""
    last_epoch: int = 0
    """The first minibatch of the last epoch."""
    value_losses: list[Tensor] = field(default_factory=list)
    """Of the minibatches that the critic learned from alone."""


def numbers_of(scalars: Sequence[Tensor]) -> NDArray[np.float64]:
    """The scalars [n] on the host."""
    numbers: NDArray[np.float64] = torch.stack(list(scalars)).double().cpu().numpy() if scalars else np.zeros(0)
    return numbers


def require_finite_terms(terms: NDArray[np.float64], norms: NDArray[np.float64]) -> None:
    """Raises TrainingDiverged for the first number that is not finite, in the order in which they were computed.

    Args:
        terms: [minibatches, 6], the fields of `LossTerms`.
        norms: [steps], the gradient's norm of each minibatch that led to a step.
    """
    if np.isfinite(terms).all() and np.isfinite(norms).all():
        return
    for minibatch, row in enumerate(terms):
        for name, value in zip(LossTerms._fields, row.tolist(), strict=True):
            if not math.isfinite(value):
                raise TrainingDiverged(f"{name} is {value} in minibatch {minibatch} of the update")
        if minibatch < len(norms) and not math.isfinite(norms[minibatch]):
            raise TrainingDiverged(f"the gradient's norm is {norms[minibatch]} in minibatch {minibatch}")


def require_finite_parameters(policy: Policy) -> None:
    """Raises TrainingDiverged where a parameter is not finite; names its tensor."""
    if torch.isfinite(policy.flat).all():
        return
    for name, tensor in policy.named_views(policy.flat).items():
        if not torch.isfinite(tensor).all():
            raise TrainingDiverged(f"policy/{name} is not finite after the update")
