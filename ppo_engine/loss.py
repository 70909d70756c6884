"""The loss of PPO, on flat tensors of B rows."""

from typing import NamedTuple

import torch
from torch import Tensor

from ppo_engine.minibatch import Minibatch
from ppo_engine.objectives import Number, Objective, clipped

LOG_RATIO_MAX = 20.0
"""Beyond it the exponential of the log-ratio would overflow, and its gradient be NaN."""


class LossTerms(NamedTuple):
    """Scalars; only `loss` carries a gradient."""

    loss: Tensor
    policy_loss: Tensor
    value_loss: Tensor
    entropy: Tensor
    approx_kl: Tensor
    clip_fraction: Tensor


def ppo_loss(
    log_probs: Tensor,
    entropies: Tensor,
    values: Tensor,
    batch: Minibatch,
    *,
    clip_range: Number,
    clip_range_vf: Number | None = None,
    vf_coef: float,
    ent_coef: float | Tensor,
    objective: Objective = clipped,
    penalty: Tensor | None = None,
    plain_log_probs: Tensor | None = None,
) -> LossTerms:
    """Objective, value error and entropy bonus, as means over the rows that the batch's mask lets through.

    Args:
        log_probs, entropies, values: [B] under the policy that learns.
        clip_range_vf: as in `value_errors`.
        penalty: a scalar that is added.
        plain_log_probs: [B] that approx_kl is of, where `log_probs` are of perturbed actions.
    Source: Schulman et al. 2017, eq. 7 and 9, arXiv:1707.06347; approx_kl is k3 of Schulman 2020,
        http://joschu.net/blog/kl-approx.html, which is never negative.
    """
    mask = batch.mask
    ratio, log_ratio = _ratios(log_probs, batch)
    surrogate = objective(log_probs, ratio, batch.advantages, clip_range)
    errors = value_errors(values, batch, clip_range_vf)
    policy_loss, value_loss, entropy = -mean(surrogate, mask), mean(errors, mask), mean(entropies, mask)
    loss = policy_loss + vf_coef * value_loss
    if isinstance(ent_coef, Tensor) or ent_coef != 0.0:
        loss = loss - ent_coef * entropy
    if penalty is not None:
        loss = loss + penalty
    with torch.no_grad():
        moved, log_moved = (ratio, log_ratio) if plain_log_probs is None else _ratios(plain_log_probs, batch)
        approx_kl = mean(moved - 1 - log_moved, mask)
        clip_fraction = mean(((ratio - 1).abs() > clip_range).to(ratio.dtype), mask)
    return LossTerms(loss, policy_loss.detach(), value_loss.detach(), entropy.detach(), approx_kl, clip_fraction)


def _ratios(log_probs: Tensor, batch: Minibatch) -> tuple[Tensor, Tensor]:
    """Ratios [B] to the policy that acted, and their logarithms."""
    log_ratio = (log_probs - batch.log_probs).clamp(max=LOG_RATIO_MAX)
    return log_ratio.exp(), log_ratio


def value_errors(values: Tensor, batch: Minibatch, clip_range_vf: Number | None) -> Tensor:
    """Squared errors [B] of values [B]. With a range, the worse of that and the error of a value that moved so far."""
    errors = (values - batch.returns).square()
    if clip_range_vf is None:
        return errors
    moved = batch.values + (values - batch.values).clamp(-clip_range_vf, clip_range_vf)
    return torch.maximum(errors, (moved - batch.returns).square())


def mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the rows [B] that `mask` lets through; 0 where it lets none through, whatever the others hold."""
    if mask is None:
        return rows.mean()
    return rows.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
