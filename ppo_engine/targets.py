"""From a rollout to what the learner learns towards: advantages, value targets, and the rows that hold them."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.advantages import advantages_and_returns, n_step_advantages_and_returns
from ppo_engine.minibatch import Minibatch
from ppo_engine.normalization import ValueNormalizer
from ppo_engine.policy import Policy
from ppo_engine.rollout import Rollout
from ppo_engine.spec import PPOSpec

VALUED_ROWS = 256
"""Rows whose values are computed at once where nothing is learned from them: what a CNN makes of more fills memory."""


def effective_lambda(ppo: PPOSpec) -> float:
    """The λ at which generalised advantage estimation is the estimator of a spec, unless that is `n_step`."""
    return {"monte_carlo": 1.0, "td": 0.0}.get(ppo.advantage_estimator, ppo.gae_lambda)


def estimates(
    ppo: PPOSpec, rewards: Tensor, values: Tensor, next_values: Tensor, terminated: Tensor, done: Tensor
) -> tuple[Tensor, Tensor]:
    """Advantages and returns, [T, N] each, by the estimator of a spec; see `advantages_and_returns`."""
    numbers = rewards, values, next_values, terminated, done
    if ppo.advantage_estimator == "n_step":
        assert ppo.n_step is not None
        return n_step_advantages_and_returns(*numbers, gamma=ppo.gamma, n=ppo.n_step)
    return advantages_and_returns(*numbers, gamma=ppo.gamma, gae_lambda=effective_lambda(ppo))


def estimated(
    rollout: Rollout, rewards: NDArray[np.float64], ppo: PPOSpec, normalizer: ValueNormalizer | None = None
) -> tuple[Tensor, Tensor]:
    """Advantages and returns of a rollout, [T, N] each.

    Args:
        rewards: [T, N], normalised if need be.
        normalizer: what the values are in units of; then the returns are, too, but not the advantages.
    """
    device, values, next_values = rollout.values.device, rollout.values, rollout.next_values
    if normalizer is not None:
        values, next_values = normalizer.denormalize(values), normalizer.denormalize(next_values)
    terminated = torch.from_numpy(rollout.terminated).to(device)
    done = torch.from_numpy(rollout.terminated | rollout.truncated).to(device)
    numbers = torch.from_numpy(rewards).to(device, torch.float32)
    advantages, returns = estimates(ppo, numbers, values, next_values, terminated, done)
    return advantages, returns if normalizer is None else normalizer.normalize(returns)


def columns_of(rollout: Rollout, advantages: Tensor, returns: Tensor) -> Minibatch:
    """Every row of a rollout with its advantage and return, [T, N, ...]."""
    return Minibatch(
        observations=rollout.observations,
        actions=rollout.actions,
        log_probs=rollout.log_probs,
        values=rollout.values,
        advantages=advantages,
        returns=returns,
        outputs=rollout.outputs,
        log_std=rollout.log_std,
        action_masks=rollout.action_masks,
    )


def flat_batch(
    rollout: Rollout, rewards: NDArray[np.float64], ppo: PPOSpec, normalizer: ValueNormalizer | None = None
) -> Minibatch:
    """Every valid row of a rollout with its advantage and return, [rows, ...]; arguments as of `estimated`."""
    columns = columns_of(rollout, *estimated(rollout, rewards, ppo, normalizer))
    flat = columns.map(lambda column: column.flatten(0, 1))
    if rollout.valid.all():
        return flat
    return flat.rows(torch.from_numpy(np.flatnonzero(rollout.valid)).to(rollout.values.device))


@torch.no_grad()
def revalued(rollout: Rollout, policy: Policy) -> Rollout:
    """The rollout with the values that the critic, as it stands, gives its observations."""
    steps, n_envs = rollout.values.shape
    parts = [part for tensor in _observations_of(rollout) for part in tensor.split(VALUED_ROWS)]
    values = torch.cat([policy.values(part) for part in parts])
    along, final = values[: (steps + 1) * n_envs].view(steps + 1, n_envs), values[(steps + 1) * n_envs :]
    next_values = along[1:].clone()
    cut_off = torch.from_numpy(rollout.truncated & ~rollout.terminated).to(values.device)
    next_values[cut_off] = final
    return replace(rollout, values=along[:-1], next_values=next_values)


def _observations_of(rollout: Rollout) -> Iterator[Tensor]:
    yield rollout.observations.flatten(0, 1)
    yield rollout.last_observation
    yield rollout.final_observations


@torch.no_grad()
def take_in_returns(
    rollout: Rollout, rewards: NDArray[np.float64], ppo: PPOSpec, normalizer: ValueNormalizer, policy: Policy
) -> Rollout:
    """Has the statistics of returns take in those of a rollout; the rollout with its values in the new units.

    The critic's last layer changes with the units, so that it says what it said before.
    """
    _, returns = estimated(rollout, rewards, ppo, normalizer)
    real = normalizer.denormalize(returns)[torch.from_numpy(rollout.valid).to(returns.device)]
    shift, scale = normalizer.update(real.cpu().numpy())
    policy.heads.rescale_values(shift, scale)
    return replace(rollout, values=rollout.values * scale + shift, next_values=rollout.next_values * scale + shift)
