"""What the compiled loops of an iteration are made of, each timed alone on the data of a rollout."""

import time
from typing import Any, TypeVar

import numba
import numpy as np
from numpy.typing import NDArray

from ppo_engine.adam import Adam
from ppo_engine.components import Components
from ppo_engine.envs.batched import BatchedKernel, step_all
from ppo_engine.fused.acting import Actor, Buffers, act, buffers_for, normalization_of
from ppo_engine.fused.adam import Moments, moments_of, norm_of, step
from ppo_engine.fused.advantages import advantages_and_returns
from ppo_engine.fused.heads import head_of
from ppo_engine.fused.network import activations_for, network_of, transpose
from ppo_engine.fused.rollout import FusedRollout
from ppo_engine.spec import PPOSpec

Arrays = TypeVar("Arrays", bound=tuple[Any, ...])


def copied(arrays: Arrays) -> Arrays:
    """A named tuple with its arrays copied."""
    fields = (field.copy() if isinstance(field, np.ndarray) else field for field in arrays)
    made: Arrays = type(arrays)(*fields)
    return made


def environment_seconds(before: BatchedKernel, rollout: FusedRollout) -> float:
    """Seconds that compiled environments take for the rollout's actions, from where they stood before it."""
    ends = np.empty_like(rollout.raw_observations[0])
    outcome = (np.empty_like(ends), *_columns(rollout), ends)
    _play(copied(before), rollout.actions[:1], *outcome)
    kernel, began = copied(before), time.perf_counter()
    _play(kernel, rollout.actions, *outcome)
    return time.perf_counter() - began


def acting_seconds(parts: Components, rollout: FusedRollout) -> float:
    """Seconds that the policy takes to act on the rollout's observations."""
    buffers = buffers_for(parts.environment, parts.policy, len(rollout.rewards))
    buffers.raw[:-1] = rollout.raw_observations
    network = network_of(parts.policy)
    transpose(network)
    activations = activations_for(network, parts.environment.n_envs)
    log_std = network.parameters[network.log_std :]
    actor = Actor(network, head_of(parts.policy), normalization_of(parts.statistics.normalizer), log_std, activations)
    _act_throughout(actor, buffers, 1)
    began = time.perf_counter()
    _act_throughout(actor, buffers, len(rollout.rewards))
    return time.perf_counter() - began


def advantages_seconds(rollout: FusedRollout, ppo: PPOSpec) -> float:
    """Seconds of the advantage estimates."""
    rewards, out = rollout.rewards.astype(np.float32), np.empty_like(rollout.values)
    began = time.perf_counter()
    advantages_and_returns(
        rewards,
        rollout.values,
        rollout.next_values,
        rollout.terminated,
        rollout.truncated,
        ppo.gamma,
        ppo.gae_lambda,
        out,
        out.copy(),
    )
    return time.perf_counter() - began


def adam_seconds(adam: Adam, steps: int) -> float:
    """Seconds of so many steps of the optimiser, and of the norms of their gradients, on copies of its memory."""
    moments = copied(moments_of(adam))
    _descend(moments, 1)
    began = time.perf_counter()
    _descend(moments, steps)
    return time.perf_counter() - began


def _columns(rollout: FusedRollout) -> tuple[NDArray[np.float64], NDArray[np.bool_], NDArray[np.bool_]]:
    return np.empty_like(rollout.rewards[0]), np.empty_like(rollout.terminated[0]), np.empty_like(rollout.truncated[0])


@numba.njit(nogil=True)
def _play(
    kernel: BatchedKernel,
    actions: NDArray[np.float32],
    observations: NDArray[np.float32],
    rewards: NDArray[np.float64],
    terminated: NDArray[np.bool_],
    truncated: NDArray[np.bool_],
    final_observations: NDArray[np.float32],
) -> None:
    for t in range(len(actions)):
        step_all(
            kernel.kind,
            kernel.parameters,
            kernel.limit,
            kernel.physics,
            kernel.generators,
            kernel.lengths,
            kernel.episodes,
            actions[t],
            observations,
            rewards,
            terminated,
            truncated,
            final_observations,
        )


@numba.njit(nogil=True)
def _act_throughout(actor: Actor, buffers: Buffers, steps: int) -> None:
    for t in range(steps):
        act(actor, buffers, t)


@numba.njit(nogil=True)
def _descend(moments: Moments, steps: int) -> None:
    for done in range(steps):
        norm = norm_of(moments.gradients)
        step(moments, done + 1, 0.0, min(1.0, 1.0 / (norm + 1e-6)))
