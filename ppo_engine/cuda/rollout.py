"""The memory of a rollout on the device."""

from dataclasses import dataclass

import torch
from torch import Tensor

from ppo_engine.policy import Policy


@dataclass(frozen=True, slots=True)
class DeviceRollout:
    """T steps of N environments, [T, N, ...] each, at the same place for the whole training."""

    raw_observations: Tensor
    """[T, N, D]"""
    final_observations: Tensor
    """[T, N, D], raw: what each step led to, before any reset."""
    rewards: Tensor
    """float32 [T, N], raw."""
    terminated: Tensor
    truncated: Tensor
    actions: Tensor
    """[T, N, columns], as the policy chose them, before they were squashed or clipped."""
    observations: Tensor
    """[T, N, D], normalised: what the policy saw."""
    outputs: Tensor
    """[T, N, outputs] of the action head."""
    log_probs: Tensor
    values: Tensor
    next_values: Tensor
    """V of the final observations, normalised."""


def allocate_rollout(policy: Policy, n_steps: int, n_envs: int) -> DeviceRollout:
    """The arrays of a rollout, zeroed, on the policy's device."""
    T, N, D, device = n_steps, n_envs, policy.observation_size, policy.device
    distribution = policy.distribution
    return DeviceRollout(
        raw_observations=torch.zeros(T, N, D, device=device),
        final_observations=torch.zeros(T, N, D, device=device),
        rewards=torch.zeros(T, N, device=device),
        terminated=torch.zeros(T, N, dtype=torch.bool, device=device),
        truncated=torch.zeros(T, N, dtype=torch.bool, device=device),
        actions=torch.zeros(T, N, distribution.columns, dtype=distribution.dtype, device=device),
        observations=torch.zeros(T, N, D, device=device),
        outputs=torch.zeros(T, N, distribution.outputs, device=device),
        log_probs=torch.zeros(T, N, device=device),
        values=torch.zeros(T, N, device=device),
        next_values=torch.zeros(T, N, device=device),
    )
