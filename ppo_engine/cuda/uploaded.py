"""Learning on the device from rollouts that were collected on the host."""

from collections.abc import Mapping

import numpy as np
import torch
from numpy.typing import NDArray

from ppo_engine.cuda.adam import DeviceAdam
from ppo_engine.cuda.learner import DeviceLearner
from ppo_engine.cuda.report import Report
from ppo_engine.cuda.rollout import allocate_rollout
from ppo_engine.policy import Policy
from ppo_engine.rollout import Rollout
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import PPOSpec

UPLOADED = ("observations", "actions", "log_probs", "values", "next_values")
"""What a rollout has on the device already; rewards and ends come from the host."""


class UploadingLearner:
    """A `DeviceLearner` for environments of the host: the update is the same graphs, the order of rows is NumPy's.

    Every row of a rollout has to be valid, since a graph is of one shape.
    """

    perturbations: np.random.Generator | None = None

    def __init__(self, policy: Policy, ppo: PPOSpec, n_envs: int, generator: np.random.Generator) -> None:
        self.generator = generator
        self._policy = policy
        self._rollout = allocate_rollout(policy, ppo.n_steps, n_envs)
        self._rewards = torch.zeros_like(self._rollout.rewards)
        # Its own generator is never drawn from.
        self._learner = DeviceLearner(policy, ppo, self._rollout, self._rewards, torch.Generator(policy.device))
        self._report = Report(self._learner.report, policy.device)

    @property
    def adam(self) -> DeviceAdam:
        return self._learner.adam

    def scalars(self) -> dict[str, float]:
        """None: nothing adapts here."""
        return {}

    def restore_scalars(self, scalars: Mapping[str, float]) -> None:
        """Nothing to restore."""

    def learn(self, rollout: Rollout, rewards: NDArray[np.float64], now: Coefficients) -> dict[str, float]:
        """Learns from a rollout whose rewards [T, N] are normalised if need be; see `Learner.update`.

        Raises: TrainingDiverged where a number is not finite; names the tensor.
        """
        for name in UPLOADED:
            getattr(self._rollout, name).copy_(getattr(rollout, name))
        self._rollout.terminated.copy_(torch.from_numpy(rollout.terminated))
        self._rollout.truncated.copy_(torch.from_numpy(rollout.truncated))
        self._rewards.copy_(torch.from_numpy(rewards))
        epochs, rows = self._learner.order.shape
        order = np.stack([self.generator.permutation(rows) for _ in range(epochs)])
        self._learner.order.copy_(torch.from_numpy(order))
        self._learner.run(now)
        self._report.pack()
        return self._learner.metrics(self._report.read(), now) | self._policy.metrics()
