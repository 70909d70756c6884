"""One iteration of training on the device, and the one copy that brings its results back."""

from collections.abc import Mapping
from typing import Any

from pydantic import JsonValue
from torch import Tensor

from ppo_engine.cuda.collector import DeviceCollector
from ppo_engine.cuda.environment import DeviceEnvironment
from ppo_engine.cuda.generators import device_generator, generator_state, restore_generator
from ppo_engine.cuda.learner import DeviceLearner
from ppo_engine.cuda.report import Report
from ppo_engine.cuda.rollout import allocate_rollout
from ppo_engine.cuda.statistics import DeviceStatistics
from ppo_engine.policy import Policy
from ppo_engine.random import seed_sequence
from ppo_engine.schedules import Coefficients
from ppo_engine.spec import PPOSpec
from ppo_engine.statistics import Statistics


class DeviceBackend:
    """Collects and learns on the environment's device."""

    def __init__(
        self,
        environment: DeviceEnvironment,
        policy: Policy,
        ppo: PPOSpec,
        statistics: Statistics,
        *,
        seed: int,
    ) -> None:
        device = environment.device
        rollout = allocate_rollout(policy, ppo.n_steps, environment.n_envs)
        actions, minibatches = (
            device_generator(seed_sequence(seed, name), device) for name in ("actions", "minibatches")
        )
        self.statistics = DeviceStatistics(rollout, statistics)
        self.collector = DeviceCollector(environment, policy, self.statistics, rollout, actions)
        self.learner = DeviceLearner(policy, ppo, rollout, self.statistics.normalized_rewards, minibatches)
        self._policy, self._episodes = policy, statistics.episodes
        self._timesteps = rollout.rewards.numel()
        self._report = Report(self._parts, device)

    def iterate(self, now: Coefficients) -> tuple[int, dict[str, float]]:
        """One iteration: the steps that were made, and the metrics.

        Raises: TrainingDiverged where a number is not finite; names it.
        """
        self.statistics.load()
        self.launch(now)
        report = self._report.read()
        self.collector.store(report)
        metrics = self.learner.metrics(report, now)
        self.statistics.store(report)
        return self._timesteps, metrics | self._policy.metrics() | self._episodes.metrics()

    def launch(self, now: Coefficients) -> None:
        """Launches an iteration, without waiting for any of it, from the statistics that were loaded."""
        self.collector.collect()
        self.statistics.take_in()
        self.learner.learn(now)
        self._report.pack()

    def random_state(self) -> dict[str, dict[str, JsonValue]]:
        """Where the generators stand that are not the environment's own."""
        return {
            "actions": generator_state(self.collector.generator),
            "minibatches": generator_state(self.learner.generator),
        }

    def restore_random(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Raises: KeyError where one is missing; ValueError where one is of another kind."""
        restore_generator(self.collector.generator, states["actions"])
        restore_generator(self.learner.generator, states["minibatches"])

    def _parts(self) -> dict[str, Tensor]:
        return {**self.statistics.report(), **self.collector.report(), **self.learner.report()}
