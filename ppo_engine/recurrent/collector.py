"""Collecting experience with memory."""

from dataclasses import fields

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.vector import Step, VectorEnvironment
from ppo_engine.errors import CheckpointMismatch
from ppo_engine.normalization import ObservationNormalizer
from ppo_engine.policy import Policy
from ppo_engine.recurrent.sequences import RecurrentRollout
from ppo_engine.rollout import EVERY, Collector


class RecurrentCollector(Collector):
    """Carries the state of each environment from step to step, and from rollout to rollout."""

    def __init__(
        self,
        environment: VectorEnvironment,
        policy: Policy,
        normalizer: ObservationNormalizer | None,
        *,
        n_steps: int,
        generator: np.random.Generator,
    ) -> None:
        super().__init__(environment, policy, normalizer, n_steps=n_steps, generator=generator)
        n_envs, self._length = environment.n_envs, policy.spec.sequence_length
        self.state = torch.zeros(n_envs, policy.memory.state_size, device=policy.device)
        """[N, M]: what the next step is acted from; between rollouts it is zero where that step starts an episode."""
        self._states = torch.empty(-(-n_steps // self._length), *self.state.shape, device=policy.device)
        self._starts = np.empty((n_steps, n_envs), np.bool_)
        self._begins = np.zeros(n_envs, np.bool_)
        self._starting: Tensor | None = None
        """bool [N]: `_begins`, on the policy's device; None where no episode starts."""
        self._cut_off_states: list[Tensor] = []

    def remember(self, state: NDArray[np.float32]) -> None:
        """Goes on from a state [N, M]; raises CheckpointMismatch where it is of another shape."""
        if state.shape != self.state.shape:
            raise CheckpointMismatch("the checkpoint's memory is of another shape")
        self.state = torch.tensor(state, device=self.state.device)

    def collect(self) -> RecurrentRollout:
        self._cut_off_states = []
        rollout = super().collect()
        if self._starting is not None:
            self.state = self.state.masked_fill(self._starting[:, None], 0.0)
        columns = {field.name: getattr(rollout, field.name) for field in fields(rollout)}
        return RecurrentRollout(**columns, states=self._states, starts=self._starts)

    def _act(self, t: int, observations: Tensor, noise: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        if t % self._length == 0:
            self._states[t // self._length] = self.state
        self._starts[t] = self._begins
        outputs, values, self.state = self.policy.step(observations, self.state, self._starting)
        if masks is not None:
            outputs = self.policy.distribution.masked(outputs, masks)
        return self.policy.distribution.sample(outputs, self.policy.log_std, noise), outputs, values

    def _store(self, t: int, step: Step, rows: slice = EVERY) -> None:
        super()._store(t, step, rows)
        # A row that is no step is one that a foreign environment resets in: what was seen there is of no episode.
        self._begins = step.terminated | step.truncated | ~step.valid
        self._starting = torch.from_numpy(self._begins).to(self.state.device) if self._begins.any() else None

    def _cut_off(self, t: int, step: Step, rows: slice = EVERY) -> list[Rows]:
        cut_off = super()._cut_off(t, step, rows)
        if cut_off:
            indices = np.flatnonzero(self._truncated[t] & ~self._terminated[t])
            self._cut_off_states.append(self.state[torch.from_numpy(indices)])
        return cut_off

    def _last_values(self) -> Tensor:
        return self.policy.step(self._observations[-1], self.state, self._starting)[1]

    def _final_values(self, observations: Tensor) -> Tensor:
        return self.policy.step(observations, torch.cat(self._cut_off_states))[1]
