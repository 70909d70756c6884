"""Advantage estimates of a rollout, and their normalisation."""

import torch
from torch import Tensor


def advantages_and_returns(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    gae_lambda: float,
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimates of one rollout, and the value targets that go with them.

    A truncated step needs no special case: next_values holds V of the observation that was cut off.

    Args:
        rewards, values: [T, N]; values under the policy that acted.
        next_values: [T, N], V(s_{t+1}) before any autoreset.
        terminated, done: [T, N] bool; `terminated` stops the bootstrap, `done` stops the sum.
    Returns: advantages [T, N] and returns [T, N], unnormalised.
    Source: Schulman et al. 2016, eq. 16, arXiv:1506.02438
    """
    deltas = rewards + gamma * next_values.masked_fill(terminated, 0.0) - values
    decays = (gamma * gae_lambda) * (~done).to(deltas.dtype)
    advantage = torch.zeros_like(deltas[0])
    backwards = []
    for delta, decay in zip(reversed(deltas.unbind()), reversed(decays.unbind()), strict=True):
        advantage = torch.addcmul(delta, decay, advantage)
        backwards.append(advantage)
    advantages = torch.stack(backwards[::-1])
    return advantages, advantages + values


def n_step_advantages_and_returns(
    rewards: Tensor,
    values: Tensor,
    next_values: Tensor,
    terminated: Tensor,
    done: Tensor,
    *,
    gamma: float,
    n: int,
) -> tuple[Tensor, Tensor]:
    """Advantages by the returns of n steps: up to n discounted rewards, then V of where they led to.

    There are fewer than n before the end of an episode or of the rollout. Arguments and answer are those of
    `advantages_and_returns`; its sums weigh the returns of all n, these take one.
    Source: Sutton and Barto 2018, eq. 7.1; Mnih et al. 2016, arXiv:1602.01783, section 4
    """
    one_step = rewards + gamma * next_values.masked_fill(terminated, 0.0)
    goes_on = ~done[:-1]
    returns = one_step
    for _ in range(min(n, len(rewards)) - 1):
        further = torch.where(goes_on, rewards[:-1] + gamma * returns[1:], one_step[:-1])
        returns = torch.cat([further, one_step[-1:]])
    return returns - values, returns


def normalized_advantages(advantages: Tensor, mask: Tensor | None = None, *, epsilon: float = 1e-8) -> Tensor:
    """Advantages of mean 0 and standard deviation 1 (over n - 1) along the last dimension.

    Equal ones become 0, and a single one stays as it is. The moments are taken in float64: in float32 the rounding
    error of the mean of equal advantages is as large as their deviation.

    Args:
        advantages: [..., B].
        mask: [..., B] bool; where it is False the advantage neither counts nor is of any use afterwards.
    """
    exact = advantages.double() if mask is None else advantages.double().masked_fill(~mask, 0.0)
    weights = torch.ones_like(exact) if mask is None else mask.to(exact.dtype)
    count = weights.sum(-1, keepdim=True)
    centred = exact - (exact * weights).sum(-1, keepdim=True) / count.clamp(min=1)
    deviation = ((centred.square() * weights).sum(-1, keepdim=True) / (count - 1).clamp(min=1)).sqrt()
    normalized = (centred / (deviation + epsilon)).to(advantages.dtype)
    return torch.where(count > 1, normalized, advantages)
