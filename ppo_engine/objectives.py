"""What the policy climbs: each objective as rows [B] of log-probabilities, ratios and advantages."""

from typing import Protocol, TypeVar

import torch
from torch import Tensor

from ppo_engine.spec import KLPenaltySpec, PPOSpec

Number = TypeVar("Number", float, Tensor)
"""A plain number, or a scalar tensor, which a captured graph reads anew each time."""


class Objective(Protocol):
    """What the policy climbs."""

    def __call__(self, log_probs: Tensor, ratios: Tensor, advantages: Tensor, clip_range: Number) -> Tensor:
        """The rows [B] whose mean is to grow, of columns [B]."""


def clipped(log_probs: Tensor, ratios: Tensor, advantages: Tensor, clip_range: Number) -> Tensor:
    """min(r A, clip(r, 1 ± ε) A). Source: Schulman et al. 2017, eq. 7, arXiv:1707.06347"""
    limited = ratios.clamp(1 - clip_range, 1 + clip_range)
    return torch.minimum(ratios * advantages, limited * advantages)


def dual_clipped(floor: float) -> Objective:
    """`clipped`, but for A < 0 no less than `floor` · A: a ratio beyond the floor has no gradient either.

    Source: Ye et al. 2020, eq. 5, arXiv:1912.09729
    """

    def objective(log_probs: Tensor, ratios: Tensor, advantages: Tensor, clip_range: Number) -> Tensor:
        rows = clipped(log_probs, ratios, advantages, clip_range)
        return torch.where(advantages < 0, torch.maximum(rows, floor * advantages), rows)

    return objective


def unclipped(log_probs: Tensor, ratios: Tensor, advantages: Tensor, clip_range: Number) -> Tensor:
    """r A: importance-weighted, unbiased, and without any bound."""
    return ratios * advantages


def vanilla(log_probs: Tensor, ratios: Tensor, advantages: Tensor, clip_range: Number) -> Tensor:
    """A log π, whose gradient is the policy gradient. Source: Williams 1992; with a critic, A2C (arXiv:1602.01783)"""
    return log_probs * advantages


def stiffened(kl: Tensor, penalty: KLPenaltySpec) -> Tensor:
    """What β is multiplied by: the KL, and beyond the target d the hinge k (KL - d)² / 2d on top of it."""
    if penalty.stiffness == 0:
        return kl
    excess = torch.relu(kl - penalty.target)
    return kl + penalty.stiffness * excess.square() / (2 * penalty.target)


def objective_of(ppo: PPOSpec) -> Objective:
    """The objective that a spec names."""
    if ppo.objective == "dual_clip":
        return dual_clipped(ppo.dual_clip)
    return {"clip": clipped, "kl_penalty": unclipped, "none": vanilla, "trpo": unclipped}[ppo.objective]
