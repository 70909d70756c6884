"""Collecting experience: T steps of N environments under the current policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.envs.vector import Step, VectorEnvironment
from ppo_engine.errors import TrainingDiverged
from ppo_engine.experience import Experience
from ppo_engine.normalization import ObservationNormalizer
from ppo_engine.policy import Policy

CutOff: TypeAlias = tuple[int, NDArray[np.intp], NDArray[np.float32]]
"""A step at which episodes were truncated: its index, the environments, and their final observations [n, D]."""


@dataclass(frozen=True, slots=True)
class Rollout(Experience):
    """Experience, and what the policy made of it, [T, N, ...] each; overwritten by the next rollout."""

    observations: Tensor
    """float32 [T, N, D], normalised: what the policy saw."""
    actions: Tensor
    """[T, N, columns], as the policy chose them, before they were squashed or clipped."""
    log_probs: Tensor
    values: Tensor
    next_values: Tensor
    """V(s_{t+1}) before any autoreset; at a truncation, V of the final observation."""


class Collector:
    """Steps the environments, and keeps the observations that they stand at.

    Action noise is drawn on the CPU, one block per rollout, whatever the device: the actions then come from one
    and the same stream everywhere, and a GPU gets them in a single copy.
    """

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
        self.last_observations: NDArray[np.float32] = np.empty((0, 0), dtype=np.float32)
        """[N, D], raw; the caller sets them from `reset` or `restore`."""
        T, N, D, device = n_steps, environment.n_envs, environment.observation_size, policy.device
        distribution, on_cuda = policy.distribution, device.type == "cuda"
        self._actions = torch.empty(T, N, distribution.columns, dtype=distribution.dtype, device=device)
        self._outputs = torch.empty(T, N, distribution.outputs, device=device)
        # One row more than the rollout has: its last observation, whose value the last step needs.
        # On the CPU both are the same memory. For CUDA the host's is pinned, so that a row is copied without a wait.
        self._seen = torch.empty(T + 1, N, D, pin_memory=on_cuda)
        self._observations = self._seen.to(device)
        self._chosen = torch.empty(N, distribution.columns, dtype=distribution.dtype, pin_memory=on_cuda)
        self._values = torch.empty(T + 1, N, device=device)
        self._raw = np.empty((T + 1, N, D), dtype=np.float32)
        self._rewards = np.empty((T, N))
        self._terminated, self._truncated, self._valid = (np.empty((T, N), dtype=np.bool_) for _ in range(3))

    def collect(self) -> Rollout:
        """One rollout, from where the last one ended.

        Raises:
            TrainingDiverged: a number that the environments or the networks gave is not finite; names it.
            EnvironmentFault: an environment failed.
        """
        with torch.inference_mode():
            cut_off = self._run()
            next_values = self._next_values(cut_off)
            log_probs, _ = self.policy.distribution.log_probs_and_entropies(
                self._outputs, self.policy.log_std, self._actions
            )
        self._check_finite(next_values)
        return Rollout(
            raw_observations=self._raw[:-1],
            rewards=self._rewards,
            terminated=self._terminated,
            truncated=self._truncated,
            valid=self._valid,
            observations=self._observations[:-1],
            actions=self._actions,
            log_probs=log_probs,
            values=self._values[:-1],
            next_values=next_values,
        )

    def _run(self) -> list[CutOff]:
        """Fills the buffers; returns where episodes were cut off."""
        shape = self._rewards.shape
        noise = torch.from_numpy(self.policy.distribution.noise(self.generator, shape)).to(self.policy.device)
        cut_off: list[CutOff] = []
        rows = zip(noise, self._observations, self._actions, self._outputs, self._values, strict=False)
        for t, (noise_row, seen, *columns) in enumerate(rows):
            self._see(t, self.last_observations)
            chosen = self.policy.act(seen, noise_row)
            for column, numbers in zip(columns, chosen, strict=True):
                column.copy_(numbers)
            step = self.environment.step(self.policy.environment_rows(self._on_host(chosen[0])))
            self._store(t, step)
            if step.truncated.any():
                environments = np.flatnonzero(step.truncated & ~step.terminated)
                cut_off.append((t, environments, step.final_observations[environments]))
        self._see(shape[0], self.last_observations)
        self._values[-1] = self.policy.values(self._observations[-1])
        return cut_off

    def _see(self, t: int, observations: NDArray[np.float32]) -> None:
        self._raw[t] = observations
        seen = observations if self.normalizer is None else self.normalizer.normalize(observations)
        self._seen[t] = torch.from_numpy(seen)
        if self._observations is not self._seen:
            self._observations[t].copy_(self._seen[t], non_blocking=True)

    def _on_host(self, actions: Tensor) -> Tensor:
        """The actions, where the host can read them: the one wait of a step on CUDA."""
        if actions.device.type != "cuda":
            return actions
        self._chosen.copy_(actions, non_blocking=True)
        torch.cuda.current_stream(actions.device).synchronize()
        return self._chosen

    def _store(self, t: int, step: Step) -> None:
        self.last_observations = step.observations
        self._rewards[t] = step.rewards
        self._terminated[t] = step.terminated
        self._truncated[t] = step.truncated
        self._valid[t] = step.valid

    def _next_values(self, cut_off: list[CutOff]) -> Tensor:
        next_values = self._values[1:].clone()
        if sum(len(environments) for _, environments, _ in cut_off):
            steps = np.concatenate([np.full(len(environments), t) for t, environments, _ in cut_off])
            environments = np.concatenate([environments for _, environments, _ in cut_off])
            finals = np.concatenate([rows for _, _, rows in cut_off])
            seen = finals if self.normalizer is None else self.normalizer.normalize(finals)
            # Copied into memory that torch aligned: where a matrix lies can change the last bit of a product.
            rows = torch.tensor(seen, device=self.policy.device)
            next_values[torch.from_numpy(steps), torch.from_numpy(environments)] = self.policy.values(rows)
        return next_values

    def _check_finite(self, next_values: Tensor) -> None:
        require_finite(
            {
                "observation": self._raw,
                "reward": self._rewards,
                "output of the policy": self._outputs.cpu().numpy(),
                "value": self._values.cpu().numpy(),
                "value of a final observation": next_values.cpu().numpy(),
            }
        )


def require_finite(numbers: Mapping[str, NDArray[np.floating[Any]]]) -> None:
    """Raises TrainingDiverged at the first of the arrays [T, N, ...] that is not finite; names its environment."""
    for name, array in numbers.items():
        if not np.isfinite(array).all():
            t, environment = np.argwhere(~np.isfinite(array))[0][:2]
            raise TrainingDiverged(f"{name} of environment {environment} is not finite at step {t} of the rollout")
