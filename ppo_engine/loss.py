"""The loss of PPO-Clip, on flat tensors of B rows."""

from typing import NamedTuple, TypeVar

import torch
from torch import Tensor

Number = TypeVar("Number", float, Tensor)
"""A plain number, or a scalar tensor, which a captured graph reads anew each time."""

LOG_RATIO_MAX = 20.0
"""Beyond it the exponential of the log-ratio would overflow, and its gradient be NaN."""


class Minibatch(NamedTuple):
    """Rows of a rollout, [B, ...] each; `log_probs` and `values` are those of the policy that acted."""

    observations: Tensor
    actions: Tensor
    log_probs: Tensor
    values: Tensor
    advantages: Tensor
    returns: Tensor


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
    ent_coef: float,
    mask: Tensor | None = None,
) -> LossTerms:
    """Clipped surrogate, value error and entropy bonus, as means over the rows.

    Args:
        log_probs, entropies, values: [B] under the policy that learns.
        clip_range_vf: also clip the change of the value, and take the worse of both errors; None: don't.
        mask: [B] bool; False rows have weight 0 in every term. None: every row counts.
    Source: Schulman et al. 2017, eq. 7 and 9, arXiv:1707.06347; approx_kl is k3 of Schulman 2020,
        http://joschu.net/blog/kl-approx.html, which is never negative.
    """
    log_ratio = (log_probs - batch.log_probs).clamp(max=LOG_RATIO_MAX)
    ratio = log_ratio.exp()
    clipped = ratio.clamp(1 - clip_range, 1 + clip_range)
    surrogate = torch.minimum(ratio * batch.advantages, clipped * batch.advantages)
    errors = (values - batch.returns).square()
    if clip_range_vf is not None:
        moved = batch.values + (values - batch.values).clamp(-clip_range_vf, clip_range_vf)
        errors = torch.maximum(errors, (moved - batch.returns).square())
    policy_loss, value_loss, entropy = -mean(surrogate, mask), mean(errors, mask), mean(entropies, mask)
    loss = policy_loss + vf_coef * value_loss
    if ent_coef != 0.0:
        loss = loss - ent_coef * entropy
    with torch.no_grad():
        approx_kl = mean(ratio - 1 - log_ratio, mask)
        clip_fraction = mean(((ratio - 1).abs() > clip_range).to(ratio.dtype), mask)
    return LossTerms(loss, policy_loss.detach(), value_loss.detach(), entropy.detach(), approx_kl, clip_fraction)


def mean(rows: Tensor, mask: Tensor | None) -> Tensor:
    """Mean of the rows [B] that `mask` lets through; 0 where it lets none through, whatever the others hold."""
    if mask is None:
        return rows.mean()
    return rows.masked_fill(~mask, 0.0).sum() / mask.sum().clamp(min=1)
