"""Acting: from raw observations to actions, for one step or for a whole rollout."""

from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled, compiled_fast, inlined, part
from ppo_engine.envs.batched import BatchedKernel, step_all
from ppo_engine.envs.vector import VectorEnvironment
from ppo_engine.fused.heads import Head, environment_rows, forbid, sample
from ppo_engine.fused.network import Activations, Floats, Masks, Network, copy, forward
from ppo_engine.normalization import ObservationNormalizer
from ppo_engine.policy import Policy


class Normalization(NamedTuple):
    """The statistics of observations as they stand, [D] each, in float64; empty where there are none."""

    mean: NDArray[np.float64]
    deviation: NDArray[np.float64]
    clip: float


class Actor(NamedTuple):
    """All that acting takes."""

    network: Network
    head: Head
    normalization: Normalization
    log_std: Floats
    activations: Activations


class Buffers(NamedTuple):
    """The rollout in the making.

    `raw`, `seen`, `masks` and `values` have one row more, for the observations that it ends at.
    """

    raw: Floats
    seen: Floats
    masks: Masks
    """[T + 1, N, masks]: what is valid there, as environments say it; without columns where they do not."""
    noise: Floats
    actions: Floats
    rows: Floats
    """[N, columns], the actions of one step as a Box environment takes them, and below it as the others do."""
    choices: NDArray[np.int64]
    outputs: Floats
    values: Floats
    next_values: Floats
    rewards: NDArray[np.float64]
    terminated: NDArray[np.bool_]
    truncated: NDArray[np.bool_]
    final_observations: Floats
    """[T, N, D], normalised; written where steps were truncated and did not terminate. The rest takes no memory, since
    nothing ever touches it."""


def normalization_of(normalizer: ObservationNormalizer | None) -> Normalization:
    """The normaliser's statistics at this moment."""
    if normalizer is None:
        return Normalization(np.zeros(0), np.zeros(0), 0.0)
    return Normalization(normalizer.moments.mean, normalizer.deviation, normalizer.clip)


def buffers_for(environment: VectorEnvironment, policy: Policy, n_steps: int) -> Buffers:
    """Room for a rollout of T steps."""
    T, N, D = n_steps, environment.n_envs, environment.observation_size
    columns, outputs = policy.distribution.columns, policy.distribution.outputs
    return Buffers(
        raw=np.zeros((T + 1, N, D), np.float32),
        seen=np.zeros((T + 1, N, D), np.float32),
        masks=np.zeros((T + 1, N, policy.distribution.masks), np.bool_),
        noise=np.zeros((T, N, columns), np.float32),
        actions=np.zeros((T, N, columns), np.float32),
        rows=np.zeros((N, columns), np.float32),
        choices=np.zeros((N, columns), np.int64),
        outputs=np.zeros((T, N, outputs), np.float32),
        values=np.zeros((T + 1, N), np.float32),
        next_values=np.zeros((T, N), np.float32),
        rewards=np.zeros((T, N)),
        terminated=np.zeros((T, N), np.bool_),
        truncated=np.zeros((T, N), np.bool_),
        final_observations=np.zeros((T, N, D), np.float32),
    )


@compiled_fast
def acting(actor: Actor, buffers: Buffers, final_observations: Floats) -> Iterator[int]:
    """Fills the buffers, but for what the environments give: each t is yielded when step t is to be made.

    A generator, since to go on with it costs a tenth of a microsecond, and a call with all its arguments ten.
    """
    for t in range(len(buffers.rewards)):
        act(actor, buffers, t)
        yield t
        bootstrap(actor, buffers, t, final_observations)
    conclude(actor, buffers)


@compiled
def collect_batched(actor: Actor, kernel: BatchedKernel, buffers: Buffers) -> None:
    """Fills the buffers with T steps of compiled environments."""
    final_observations = np.zeros_like(buffers.raw[0])
    for t in range(len(buffers.rewards)):
        act(actor, buffers, t)
        step_all(
            kernel.kind,
            kernel.parameters,
            kernel.limit,
            kernel.physics,
            kernel.generators,
            kernel.lengths,
            kernel.episodes,
            buffers.rows,
            buffers.raw[t + 1],
            buffers.rewards[t],
            buffers.terminated[t],
            buffers.truncated[t],
            final_observations,
        )
        bootstrap(actor, buffers, t, final_observations)
    conclude(actor, buffers)


@inlined
def act(actor: Actor, buffers: Buffers, t: int) -> None:
    """From the raw observations of step t, its actions, outputs and values, and the rows that the environment takes."""
    see(actor.normalization, buffers.raw[t], buffers.seen[t])
    forward(actor.network, buffers.seen[t], actor.activations)
    copy(actor.activations.outputs, buffers.outputs[t])
    forbid(actor.head, buffers.masks[t], buffers.outputs[t])
    for env in range(buffers.values.shape[1]):
        buffers.values[t, env] = actor.activations.values[env, 0]
    sample(actor.head, buffers.outputs[t], actor.log_std, buffers.noise[t], buffers.actions[t])
    environment_rows(actor.head, buffers.actions[t], buffers.rows)
    for env in range(buffers.rows.shape[0]):
        for column in range(buffers.rows.shape[1]):
            buffers.choices[env, column] = np.int64(buffers.rows[env, column])


@inlined
def bootstrap(actor: Actor, buffers: Buffers, t: int, final_observations: Floats) -> None:
    """The values of the observations at which step t cut episodes off."""
    room = actor.activations
    single = Activations(room.hidden, room.outputs[:1], room.values[:1])
    for env in range(len(final_observations)):
        if buffers.truncated[t, env] and not buffers.terminated[t, env]:
            seen = buffers.final_observations[t, env : env + 1]
            see(actor.normalization, final_observations[env : env + 1], seen)
            forward(actor.network, seen, single)
            buffers.next_values[t, env] = room.values[0, 0]


@inlined
def conclude(actor: Actor, buffers: Buffers) -> None:
    """The values of the last observations, and every next value but those that `bootstrap` wrote."""
    steps, n_envs = buffers.rewards.shape
    see(actor.normalization, buffers.raw[steps], buffers.seen[steps])
    forward(actor.network, buffers.seen[steps], actor.activations)
    for env in range(n_envs):
        buffers.values[steps, env] = actor.activations.values[env, 0]
    for t in range(steps):
        for env in range(n_envs):
            if buffers.terminated[t, env] or not buffers.truncated[t, env]:
                buffers.next_values[t, env] = buffers.values[t + 1, env]


@part
def see(normalization: Normalization, raw: Floats, seen: Floats) -> None:
    """Writes raw observations [B, D] as the policy is to see them."""
    if len(normalization.mean) == 0:
        copy(raw, seen)
        return
    for row in range(raw.shape[0]):
        for feature in range(raw.shape[1]):
            scaled = (raw[row, feature] - normalization.mean[feature]) / normalization.deviation[feature]
            scaled = -normalization.clip if scaled < -normalization.clip else scaled
            seen[row, feature] = normalization.clip if scaled > normalization.clip else scaled
