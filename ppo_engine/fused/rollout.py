"""Collecting experience: T steps of N environments under the current policy, as `ppo_engine.rollout` has it.

Environments that are compiled themselves are stepped within one compiled loop; all others from Python, with one
compiled call between their steps.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ppo_engine.compiled import compiled, compiled_fast
from ppo_engine.envs.batched import BatchedKernel, BatchedVectorEnvironment, step_all
from ppo_engine.envs.vector import VectorEnvironment
from ppo_engine.errors import TrainingDiverged
from ppo_engine.experience import Experience
from ppo_engine.fused import heads
from ppo_engine.fused.finite import all_finite
from ppo_engine.fused.heads import Head, head_of
from ppo_engine.fused.network import Activations, Floats, Network, activations_for, forward, network_of, transpose
from ppo_engine.normalization import ObservationNormalizer
from ppo_engine.policy import Policy


@dataclass(frozen=True, slots=True)
class FusedRollout(Experience):
    """What happened, [T, N, ...] each; overwritten by the next rollout."""

    observations: Floats
    """Normalised: what the policy saw."""
    actions: Floats
    """[T, N, columns], as the policy chose them; choices are whole numbers."""
    log_probs: Floats
    values: Floats
    next_values: Floats
    """V(s_{t+1}) before any autoreset; at a truncation, V of the final observation."""


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
    """The rollout in the making; `raw`, `seen` and `values` have one row more, for the observations that it ends at."""

    raw: Floats
    seen: Floats
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


class FusedCollector:
    """Steps the environments, and keeps the observations that they stand at."""

    def __init__(
        self,
        environment: VectorEnvironment,
        policy: Policy,
        normalizer: ObservationNormalizer | None,
        *,
        n_steps: int,
        generator: np.random.Generator,
    ) -> None:
        self.environment, self.policy, self.normalizer = environment, policy, normalizer
        self.generator = generator
        self._network = network_of(policy)
        self._head = head_of(policy)
        self._activations = activations_for(self._network, environment.n_envs)
        self._single = activations_for(self._network, 1)
        self._buffers = buffers_for(environment, policy, n_steps)
        if normalizer is None:
            self._buffers = self._buffers._replace(seen=self._buffers.raw)
        self._valid = np.ones((n_steps, environment.n_envs), np.bool_)
        rows = n_steps * environment.n_envs
        self._log_probs, self._entropies = np.zeros((2, rows), np.float32)
        self._probabilities = np.zeros((rows, policy.distribution.outputs), np.float32)

    @property
    def last_observations(self) -> Floats:
        """[N, D], raw: where the environments stand; the caller sets them from `reset` or `restore`."""
        last: Floats = self._buffers.raw[-1]
        return last

    @last_observations.setter
    def last_observations(self, observations: Floats) -> None:
        self._buffers.raw[-1] = observations

    def collect(self) -> FusedRollout:
        """One rollout, from where the last one ended.

        Raises:
            TrainingDiverged: a number that the environments or the networks gave is not finite; names it.
            EnvironmentFault: an environment failed.
        """
        buffers = self._buffers
        buffers.raw[0] = buffers.raw[-1]
        shape = buffers.rewards.shape
        buffers.noise[...] = self.policy.distribution.noise(self.generator, shape)
        transpose(self._network)
        if isinstance(self.environment, BatchedVectorEnvironment):
            collect_batched(self._actor(), self._alone(), self.environment.kernel, buffers)
        else:
            self._collect_stepwise()
        self._check_finite()
        actor = self._actor()
        heads.log_probs_and_entropies(
            self._head,
            buffers.outputs.reshape(len(self._log_probs), -1),
            actor.log_std,
            buffers.actions.reshape(len(self._log_probs), -1),
            self._log_probs,
            self._entropies,
            self._probabilities,
        )
        return FusedRollout(
            raw_observations=buffers.raw[:-1],
            rewards=buffers.rewards,
            terminated=buffers.terminated,
            truncated=buffers.truncated,
            valid=self._valid,
            observations=buffers.seen[:-1],
            actions=buffers.actions,
            log_probs=self._log_probs.reshape(shape),
            values=buffers.values[:-1],
            next_values=buffers.next_values,
        )

    def _collect_stepwise(self) -> None:
        """Fills the buffers, stepping the environments from Python."""
        buffers, environment = self._buffers, self.environment
        actions = buffers.rows if self.policy.action_space.kind == "box" else buffers.choices
        final_observations = np.zeros_like(buffers.raw[0])
        for t in acting(self._actor(), self._alone(), buffers, final_observations):
            step = environment.step(actions)
            buffers.raw[t + 1] = step.observations
            buffers.rewards[t] = step.rewards
            buffers.terminated[t] = step.terminated
            buffers.truncated[t] = step.truncated
            self._valid[t] = step.valid
            final_observations[...] = step.final_observations

    def _actor(self) -> Actor:
        return self._acting(self._activations)

    def _alone(self) -> Actor:
        return self._acting(self._single)

    def _acting(self, activations: Activations) -> Actor:
        log_std = self._network.parameters[self._network.log_std :]
        return Actor(self._network, self._head, normalization_of(self.normalizer), log_std, activations)

    def _check_finite(self) -> None:
        buffers = self._buffers
        numbers: dict[str, NDArray[np.floating[Any]]] = {
            "observation": buffers.raw,
            "reward": buffers.rewards,
            "output of the policy": buffers.outputs,
            "value": buffers.values,
            "value of a final observation": buffers.next_values,
        }
        for name, array in numbers.items():
            if not all_finite(array.reshape(-1)):
                t, environment = np.argwhere(~np.isfinite(array))[0][:2]
                raise TrainingDiverged(f"{name} of environment {environment} is not finite at step {t} of the rollout")


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
    )


@compiled_fast
def acting(actor: Actor, alone: Actor, buffers: Buffers, final_observations: Floats) -> Iterator[int]:
    """Fills the buffers, but for what the environments give: each t is yielded when step t is to be made.

    A generator, since to go on with it costs a tenth of a microsecond, and a call with all its arguments ten.
    """
    for t in range(len(buffers.rewards)):
        act(actor, buffers, t)
        yield t
        bootstrap(alone, buffers, t, final_observations)
    conclude(actor, buffers)


@compiled
def collect_batched(actor: Actor, alone: Actor, kernel: BatchedKernel, buffers: Buffers) -> None:
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
        bootstrap(alone, buffers, t, final_observations)
    conclude(actor, buffers)


@compiled_fast
def act(actor: Actor, buffers: Buffers, t: int) -> None:
    """From the raw observations of step t, its actions, outputs and values, and the rows that the environment takes."""
    see(actor.normalization, buffers.raw[t], buffers.seen[t])
    forward(actor.network, buffers.seen[t], actor.activations)
    buffers.outputs[t] = actor.activations.outputs
    buffers.values[t] = actor.activations.values[:, 0]
    heads.sample(actor.head, buffers.outputs[t], actor.log_std, buffers.noise[t], buffers.actions[t])
    heads.environment_rows(actor.head, buffers.actions[t], buffers.rows)
    buffers.choices[:] = buffers.rows


@compiled_fast
def bootstrap(alone: Actor, buffers: Buffers, t: int, final_observations: Floats) -> None:
    """The values of the observations at which step t cut episodes off; `alone` acts for one environment."""
    for env in range(len(final_observations)):
        if buffers.truncated[t, env] and not buffers.terminated[t, env]:
            buffers.next_values[t, env] = value_of(alone, final_observations[env : env + 1])


@compiled_fast
def value_of(alone: Actor, raw: Floats) -> np.float32:
    """The value of one raw observation [1, D]."""
    seen = np.empty_like(raw)
    see(alone.normalization, raw, seen)
    forward(alone.network, seen, alone.activations)
    value: np.float32 = alone.activations.values[0, 0]
    return value


@compiled_fast
def conclude(actor: Actor, buffers: Buffers) -> None:
    """The values of the last observations, and every next value but those that `bootstrap` wrote."""
    steps, n_envs = buffers.rewards.shape
    see(actor.normalization, buffers.raw[steps], buffers.seen[steps])
    forward(actor.network, buffers.seen[steps], actor.activations)
    buffers.values[steps] = actor.activations.values[:, 0]
    for t in range(steps):
        for env in range(n_envs):
            if buffers.terminated[t, env] or not buffers.truncated[t, env]:
                buffers.next_values[t, env] = buffers.values[t + 1, env]


@compiled
def see(normalization: Normalization, raw: Floats, seen: Floats) -> None:
    """Writes raw observations [B, D] as the policy is to see them."""
    if len(normalization.mean) == 0:
        seen[:] = raw
        return
    for row in range(raw.shape[0]):
        for feature in range(raw.shape[1]):
            scaled = (raw[row, feature] - normalization.mean[feature]) / normalization.deviation[feature]
            scaled = -normalization.clip if scaled < -normalization.clip else scaled
            seen[row, feature] = normalization.clip if scaled > normalization.clip else scaled
