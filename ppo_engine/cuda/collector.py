"""Collecting experience without the host: T steps of all environments, launched and not waited for."""

from collections.abc import Callable, Mapping

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.cuda.environment import DeviceEnvironment
from ppo_engine.cuda.graphs import Replayed
from ppo_engine.cuda.rollout import DeviceRollout
from ppo_engine.cuda.statistics import DeviceStatistics
from ppo_engine.policy import Policy
from ppo_engine.rollout import require_finite
from ppo_engine.squashing import centre_and_reach

CHECKED = {
    "raw_observations": "observation",
    "final_observations": "final observation",
    "rewards": "reward",
    "outputs": "output of the policy",
    "values": "value",
    "next_values": "value of a final observation",
}
"""What must be finite in a rollout, and what it is called."""


class DeviceCollector:
    """Steps the environments under the current policy, and fills the rollout.

    While it acts the policy is asked for actions alone; log-probabilities and values of all steps come from one forward
    pass afterwards.
    """

    def __init__(
        self,
        environment: DeviceEnvironment,
        policy: Policy,
        statistics: DeviceStatistics,
        rollout: DeviceRollout,
        generator: torch.Generator,
    ) -> None:
        self._environment, self._policy, self._statistics, self._rollout = environment, policy, statistics, rollout
        self.generator = generator
        self.last_observations: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
        """[N, D], raw; what the report said, or `reset` or `restore`."""
        T, N, columns = rollout.actions.shape
        device = environment.device
        self.noise = torch.zeros(T, N, columns, device=device)
        self.uniforms = torch.zeros(T, N, environment.law.draws, device=device)
        self._t = torch.zeros(1, dtype=torch.int64, device=device)
        self._finite = torch.zeros(len(CHECKED), dtype=torch.bool, device=device)
        self._draw_noise = noise_source(rollout.actions.dtype)
        self._rows_for_environment = squashing_on(policy, device)
        changes = (environment.physics, environment.lengths, self._t)
        self._step = Replayed(self._take_step, device, changes=changes)
        self._finish = Replayed(self._evaluate, device, changes=())

    def collect(self) -> None:
        """Launches a rollout, from where the last one ended."""
        self._draw_noise(self.noise, self.generator)
        self.uniforms.uniform_(generator=self._environment.generator)
        self.run()

    def run(self) -> None:
        """Launches a rollout with the noise and the uniforms as they stand."""
        self._t.zero_()
        for _ in range(len(self.noise)):
            self._step()
        self._finish()

    def report(self) -> dict[str, Tensor]:
        """What `store` needs, by name."""
        return {"collector/finite": self._finite, "collector/observations": self._environment.observations()}

    def store(self, report: Mapping[str, NDArray[np.float64]]) -> None:
        """Takes what a report brought back.

        Raises: TrainingDiverged where a number of the rollout is not finite; names it.
        """
        self.last_observations = report["collector/observations"].astype(np.float32)
        if not report["collector/finite"].all():
            require_finite({called: getattr(self._rollout, name).cpu().numpy() for name, called in CHECKED.items()})

    @torch.no_grad()
    def _take_step(self) -> None:
        environment, policy, rollout, t = self._environment, self._policy, self._rollout, self._t
        observations = environment.observations()
        outputs, _ = policy.forward(self._statistics.normalized(observations))
        noise, uniforms = self.noise.index_select(0, t).squeeze(0), self.uniforms.index_select(0, t).squeeze(0)
        actions = policy.distribution.sample(outputs, policy.log_std, noise)
        rows = self._rows_for_environment(actions)
        made = environment.transition(environment.physics, environment.lengths, rows, uniforms)
        for column, row in (
            (rollout.raw_observations, observations),
            (rollout.final_observations, made.final_observations),
            (rollout.actions, actions),
            (rollout.rewards, made.rewards),
            (rollout.terminated, made.terminated),
            (rollout.truncated, made.truncated),
        ):
            column.index_copy_(0, t, row.unsqueeze(0))
        environment.physics.copy_(made.physics)
        environment.lengths.copy_(made.lengths)
        t.add_(1)

    @torch.no_grad()
    def _evaluate(self) -> None:
        """What the policy makes of all steps at once."""
        policy, rollout, normalized = self._policy, self._rollout, self._statistics.normalized
        rollout.observations.copy_(normalized(rollout.raw_observations))
        outputs, values = policy.forward(rollout.observations.flatten(0, 1))
        log_probs, _ = policy.distribution.log_probs_and_entropies(
            outputs, policy.log_std, rollout.actions.flatten(0, 1)
        )
        rollout.outputs.copy_(outputs.view_as(rollout.outputs))
        rollout.values.copy_(values.view_as(rollout.values))
        rollout.log_probs.copy_(log_probs.view_as(rollout.log_probs))
        finals = normalized(rollout.final_observations).flatten(0, 1)
        rollout.next_values.copy_(policy.values(finals).view_as(rollout.next_values))
        self._finite.copy_(torch.stack([torch.isfinite(getattr(rollout, name)).all() for name in CHECKED]))


def noise_source(dtype: torch.dtype) -> Callable[[Tensor, torch.Generator], Tensor]:
    """What fills a tensor with the noise that actions of a type are sampled by; see `distributions`."""
    if dtype == torch.float32:
        return lambda noise, generator: noise.normal_(generator=generator)
    return lambda noise, generator: noise.uniform_(generator=generator)


def squashing_on(policy: Policy, device: torch.device) -> Callable[[Tensor], Tensor]:
    """`Policy.environment_rows` for environments that take tensors."""
    low, high = policy.action_space.low, policy.action_space.high
    if not policy.spec.squash_output or low is None or high is None:
        return lambda actions: actions
    centre, reach = (torch.from_numpy(part).to(device) for part in centre_and_reach(low, high))
    lowest, highest = (torch.from_numpy(bound).to(device, torch.float32) for bound in (low, high))
    return lambda actions: (centre + reach * torch.tanh(actions)).clamp(lowest, highest)
