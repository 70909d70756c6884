"""Collecting experience: T steps of N environments under the current policy."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ppo_engine.envs.masks import GivesMasks
from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.vector import Step, VectorEnvironment
from ppo_engine.errors import TrainingDiverged
from ppo_engine.experience import Experience
from ppo_engine.normalization import ObservationNormalizer
from ppo_engine.policy import Policy

EVERY = slice(None)
"""The rows of all environments."""


@dataclass(frozen=True, slots=True)
class Rollout(Experience):
    """Experience, and what the policy made of it, [T, N, ...] each; overwritten by the next rollout."""

    observations: Tensor
    """[T, N, D], normalised but for images: what the policy saw. Bytes where the environment's rows are bytes that are
    not normalised, else float32."""
    actions: Tensor
    """[T, N, columns], as the policy chose them, before they were squashed or clipped."""
    log_probs: Tensor
    values: Tensor
    next_values: Tensor
    """V(s_{t+1}) before any autoreset; at a truncation, V of the final observation."""
    outputs: Tensor
    """[T, N, outputs] of the action head."""
    log_std: Tensor
    """The policy's, as it acted."""
    last_observation: Tensor
    """[N, D], normalised: where the rollout ends."""
    final_observations: Tensor
    """[n, D], normalised: of the steps that were truncated and did not terminate, in order of time and environment."""
    action_masks: Tensor | None = None
    """bool [T, N, masks]: what was valid; None where the environments do not say."""


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
        self.last_observations: Rows = np.empty((0, 0), dtype=np.float32)
        """[N, D], raw; the caller sets them from `reset` or `restore`."""
        T, N, D, device = n_steps, environment.n_envs, environment.observation_size, policy.device
        distribution, on_cuda = policy.distribution, device.type == "cuda"
        self._actions = torch.empty(T, N, distribution.columns, dtype=distribution.dtype, device=device)
        self._outputs = torch.empty(T, N, distribution.outputs, device=device)
        # One row more than the rollout has: its last observation, whose value the last step needs.
        # On the CPU both are the same memory. For CUDA the host's is pinned, so that a row is copied without a wait.
        dtype = environment.encoder.dtype if normalizer is None else np.dtype(np.float32)
        self._seen = torch.empty(T + 1, N, D, dtype=getattr(torch, dtype.name), pin_memory=on_cuda)
        self._observations = self._seen.to(device)
        self._chosen = torch.empty(N, distribution.columns, dtype=distribution.dtype, pin_memory=on_cuda)
        self._values = torch.empty(T + 1, N, device=device)
        self._masks: Tensor | None = None
        if distribution.masks:
            self._masks = torch.ones(T, N, distribution.masks, dtype=torch.bool, device=device)
        # What is not normalised is kept once.
        self._raw = self._seen.numpy() if normalizer is None else np.empty((T + 1, N, D), environment.encoder.dtype)
        self._rewards = np.empty((T, N))
        self._terminated, self._truncated, self._valid = (np.empty((T, N), dtype=np.bool_) for _ in range(3))
        self._lives_lost = np.zeros((T, N), dtype=np.bool_)

    def collect(self) -> Rollout:
        """One rollout, from where the last one ended.

        Raises:
            TrainingDiverged: a number that the environments or the networks gave is not finite; names it.
            EnvironmentFault: an environment failed.
        """
        with torch.inference_mode():
            cut_off = self._run()
            final_observations = self._seen_at(cut_off)
            next_values = self._next_values(final_observations)
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
            lives_lost=self._lives_lost,
            observations=self._observations[:-1],
            actions=self._actions,
            log_probs=log_probs,
            values=self._values[:-1],
            next_values=next_values,
            outputs=self._outputs,
            log_std=self.policy.log_std.detach().clone(),
            action_masks=self._masks,
            last_observation=self._observations[-1],
            final_observations=final_observations,
        )

    def _run(self) -> list[Rows]:
        """Fills the buffers; returns the final observations [n, D] of each step that cut episodes off."""
        shape = self._rewards.shape
        cut_off: list[Rows] = []
        rows = zip(self._noise(), self._observations, self._actions, self._outputs, self._values, strict=False)
        for t, (noise_row, seen, *columns) in enumerate(rows):
            self._see(t, self.last_observations)
            chosen = self._act(t, seen, noise_row, self._masks_at(t))
            for column, numbers in zip(columns, chosen, strict=True):
                column.copy_(numbers)
            step = self.environment.step(self.policy.environment_rows(self._on_host(chosen[0])))
            self._store(t, step)
            cut_off += self._cut_off(t, step)
        self._see(shape[0], self.last_observations)
        self._values[-1] = self._last_values()
        return cut_off

    def _noise(self) -> list[Tensor]:
        """The noise of each step, [N, noise_columns]: drawn in one block, of which a row may last for several steps."""
        T, N = self._rewards.shape
        distribution = self.policy.distribution
        lasts = distribution.noise_lasts or T
        rows = distribution.noise(self.generator, (-(-T // lasts), N))
        noise = torch.from_numpy(rows).to(self.policy.device)
        return [noise[t // lasts] for t in range(T)]

    def _masks_at(self, t: int, rows: slice = EVERY) -> Tensor | None:
        """What is valid where the environments stand now, kept as step t's: [n, masks]; None where they do not say."""
        if self._masks is None or not isinstance(self.environment, GivesMasks):
            return None
        valid = self.environment.action_masks
        if valid is None:
            return None
        self._masks[t, rows] = torch.from_numpy(valid[rows])
        return self._masks[t, rows]

    def _see(self, t: int, observations: Rows, rows: slice = EVERY) -> None:
        self._raw[t, rows] = observations[rows]
        if self.normalizer is not None:
            self._seen[t, rows] = torch.from_numpy(self.normalizer.normalize(observations[rows]))
        if self._observations is not self._seen:
            self._observations[t].copy_(self._seen[t], non_blocking=True)

    def _on_host(self, actions: Tensor) -> Tensor:
        """The actions, where the host can read them: the one wait of a step on CUDA."""
        if actions.device.type != "cuda":
            return actions
        self._chosen.copy_(actions, non_blocking=True)
        torch.cuda.current_stream(actions.device).synchronize()
        return self._chosen

    def _store(self, t: int, step: Step, rows: slice = EVERY) -> None:
        self.last_observations = step.observations
        self._rewards[t, rows] = step.rewards[rows]
        self._terminated[t, rows] = step.terminated[rows]
        if step.lives_lost is not None:
            self._lives_lost[t, rows] = step.lives_lost[rows]
            self._terminated[t, rows] |= step.lives_lost[rows]
        self._truncated[t, rows] = step.truncated[rows]
        self._valid[t, rows] = step.valid[rows]

    def _cut_off(self, t: int, step: Step, rows: slice = EVERY) -> list[Rows]:
        """The final observations [n, D] of what step t cut off, if any."""
        if not step.truncated[rows].any():
            return []
        return [step.final_observations[rows][self._truncated[t, rows] & ~self._terminated[t, rows]]]

    def _seen_at(self, cut_off: list[Rows]) -> Tensor:
        """The final observations [n, D], normalised."""
        finals = np.concatenate([self._raw[-1, :0], *cut_off])
        seen: Rows = finals if self.normalizer is None else self.normalizer.normalize(finals)
        # Copied into memory that torch aligned: where a matrix lies can change the last bit of a product.
        return torch.tensor(seen, device=self.policy.device)

    def _next_values(self, final_observations: Tensor) -> Tensor:
        next_values = self._values[1:].clone()
        if len(final_observations):
            cut_off = torch.from_numpy(self._truncated & ~self._terminated).to(next_values.device)
            next_values[cut_off] = self._final_values(final_observations)
        return next_values

    def _act(self, t: int, observations: Tensor, noise: Tensor, masks: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Sampled action rows [N, columns], outputs [N, outputs] and values [N] of step t; see `Policy.act`."""
        return self.policy.act(observations, noise, masks)

    def _last_values(self) -> Tensor:
        """V [N] of the observations behind the last step."""
        return self.policy.values(self._observations[-1])

    def _final_values(self, observations: Tensor) -> Tensor:
        """V [n] of all final observations [n, D] of the rollout."""
        return self.policy.values(observations)

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


def require_finite(numbers: Mapping[str, NDArray[np.floating[Any] | np.uint8]]) -> None:
    """Raises TrainingDiverged at the first of the arrays [T, N, ...] that is not finite; names its environment."""
    for name, array in numbers.items():
        if array.dtype != np.uint8 and not np.isfinite(array).all():
            t, environment = np.argwhere(~np.isfinite(array))[0][:2]
            raise TrainingDiverged(f"{name} of environment {environment} is not finite at step {t} of the rollout")
