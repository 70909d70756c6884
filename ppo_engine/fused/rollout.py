"""Collecting experience: T steps of N environments under the current policy, as `ppo_engine.rollout` has it.

Environments that are compiled themselves are stepped within one compiled loop; all others from Python, with one
compiled call between their steps.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ppo_engine.envs.batched import BatchedVectorEnvironment
from ppo_engine.envs.masks import GivesMasks
from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.vector import VectorEnvironment
from ppo_engine.experience import Experience
from ppo_engine.fused.acting import Actor, acting, buffers_for, collect_batched, normalization_of
from ppo_engine.fused.finite import all_finite
from ppo_engine.fused.heads import head_of, log_probs_and_entropies
from ppo_engine.fused.network import Floats, Masks, activations_for, network_of, transpose
from ppo_engine.normalization import ObservationNormalizer
from ppo_engine.policy import Policy
from ppo_engine.rollout import require_finite


@dataclass(frozen=True, slots=True)
class FusedRollout(Experience):
    """What happened, [T, N, ...] each; overwritten by the next rollout."""

    observations: Floats
    """Normalised: what the policy saw."""
    actions: Floats
    """[T, N, columns], as the policy chose them; choices are whole numbers."""
    outputs: Floats
    """[T, N, outputs] of the action head; of categoricals, the logarithms of their probabilities."""
    log_std: Floats
    """[A], the policy's as it acted."""
    log_probs: Floats
    values: Floats
    next_values: Floats
    """V(s_{t+1}) before any autoreset; at a truncation, V of the final observation."""
    last_observation: Floats
    """[N, D], normalised: where the rollout ends."""
    final_observations: Floats
    """[n, D], normalised: of the steps that were truncated and did not terminate, in order of time and environment."""
    action_masks: Masks
    """[T, N, masks]: what was valid; without columns where environments do not say."""


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
        self._buffers = buffers_for(environment, policy, n_steps)
        if normalizer is None:
            self._buffers = self._buffers._replace(seen=self._buffers.raw)
        self._valid = np.ones((n_steps, environment.n_envs), np.bool_)
        rows = n_steps * environment.n_envs
        self._log_probs, self._entropies = np.zeros((2, rows), np.float32)
        self._probabilities = np.zeros((rows, policy.distribution.outputs), np.float32)

    @property
    def last_observations(self) -> Rows:
        """[N, D], raw: where the environments stand; the caller sets them from `reset` or `restore`."""
        last: Rows = self._buffers.raw[-1]
        return last

    @last_observations.setter
    def last_observations(self, observations: Rows) -> None:
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
            collect_batched(self._actor(), self.environment.kernel, buffers)
        else:
            self._collect_stepwise()
        self._check_finite()
        actor = self._actor()
        log_probs_and_entropies(
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
            outputs=buffers.outputs,
            log_std=actor.log_std.copy(),
            log_probs=self._log_probs.reshape(shape),
            values=buffers.values[:-1],
            next_values=buffers.next_values,
            last_observation=buffers.seen[-1],
            final_observations=buffers.final_observations[buffers.truncated & ~buffers.terminated],
            action_masks=buffers.masks[:-1],
        )

    def _collect_stepwise(self) -> None:
        """Fills the buffers, stepping the environments from Python."""
        buffers, environment = self._buffers, self.environment
        actions = buffers.rows if self.policy.action_space.kind == "box" else buffers.choices
        final_observations = np.zeros_like(buffers.raw[0])
        self._ask_what_is_valid(0)
        for t in acting(self._actor(), buffers, final_observations):
            step = environment.step(actions)
            buffers.raw[t + 1] = step.observations
            self._ask_what_is_valid(t + 1)
            buffers.rewards[t] = step.rewards
            buffers.terminated[t] = step.terminated
            buffers.truncated[t] = step.truncated
            self._valid[t] = step.valid
            final_observations[...] = step.final_observations

    def _ask_what_is_valid(self, t: int) -> None:
        """Takes down the masks of where the environments stand before step t."""
        masks = self._buffers.masks
        if masks.shape[-1] and isinstance(self.environment, GivesMasks):
            masks[t] = self.environment.action_masks

    def _actor(self) -> Actor:
        log_std = self._network.parameters[self._network.log_std :]
        return Actor(self._network, self._head, normalization_of(self.normalizer), log_std, self._activations)

    def _check_finite(self) -> None:
        buffers = self._buffers
        numbers: dict[str, NDArray[np.floating[Any]]] = {
            "observation": buffers.raw,
            "reward": buffers.rewards,
            "output of the policy": buffers.outputs,
            "value": buffers.values,
            "value of a final observation": buffers.next_values,
        }
        if not all(all_finite(array.reshape(-1)) for array in numbers.values()):
            require_finite(numbers)
