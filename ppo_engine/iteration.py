"""One iteration of training on the host: collect, take in statistics, learn."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.adam import Adam
from ppo_engine.envs.spaces import ActionSpace, Rows
from ppo_engine.experience import Experience
from ppo_engine.metrics import saturation_metrics
from ppo_engine.random import generator_state, restored_generator
from ppo_engine.schedules import Coefficients
from ppo_engine.statistics import Statistics

R = TypeVar("R", bound=Experience)
R_co = TypeVar("R_co", bound=Experience, covariant=True)
R_contra = TypeVar("R_contra", bound=Experience, contravariant=True)


class CollectsExperience(Protocol[R_co]):
    """What steps the environments, and draws the noise of actions from `generator`."""

    generator: np.random.Generator

    @property
    def last_observations(self) -> Rows:
        """[N, D], raw: where the environments stand; set from `reset` or `restore`."""

    @last_observations.setter
    def last_observations(self, observations: Rows) -> None: ...

    def collect(self) -> R_co: ...


class LearnsFromExperience(Protocol[R_contra]):
    """What updates the policy, and draws the order of minibatches from `generator`."""

    generator: np.random.Generator

    @property
    def perturbations(self) -> np.random.Generator | None:
        """Where the noise that it learns with comes from; None: it needs none."""

    @perturbations.setter
    def perturbations(self, generator: np.random.Generator | None) -> None: ...

    @property
    def adam(self) -> Adam: ...

    def scalars(self) -> dict[str, float]:
        """Plain numbers of its state, but for the optimiser's count of steps."""

    def restore_scalars(self, scalars: Mapping[str, float]) -> None: ...

    def learn(self, rollout: R_contra, rewards: NDArray[np.float64], now: Coefficients) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class HostBackend(Generic[R]):
    """A collector, the learner that understands its rollouts, and the statistics between them."""

    collector: CollectsExperience[R]
    learner: LearnsFromExperience[R]
    statistics: Statistics
    clipped_space: ActionSpace | None = None
    """Of an environment whose actions are clipped to bounds."""

    def iterate(self, now: Coefficients) -> tuple[int, dict[str, float]]:
        """One iteration: the steps that were made, and the metrics.

        Raises:
            TrainingDiverged: a number is not finite; names it.
            EnvironmentFault: an environment failed.
        """
        rollout = self.collector.collect()
        rewards = self.statistics.before_learning(rollout)
        metrics = self.learner.learn(rollout, rewards, now)
        self.statistics.after_learning(rollout)
        metrics |= self.statistics.episodes.metrics()
        if self.clipped_space is not None:
            metrics |= saturation_metrics(rollout.actions, self.clipped_space)
        return int(np.count_nonzero(rollout.valid)), metrics

    def random_state(self) -> dict[str, dict[str, JsonValue]]:
        """Where the generators stand that are not the environments' own."""
        generators = {"actions": self.collector.generator, "minibatches": self.learner.generator}
        if self.learner.perturbations is not None:
            generators["perturbations"] = self.learner.perturbations
        return {name: generator_state(generator) for name, generator in generators.items()}

    def restore_random(self, states: Mapping[str, dict[str, Any]]) -> None:
        """Raises: KeyError where one is missing; ValueError where one is of another kind."""
        self.collector.generator = restored_generator(states["actions"])
        self.learner.generator = restored_generator(states["minibatches"])
        if self.learner.perturbations is not None:
            self.learner.perturbations = restored_generator(states["perturbations"])
