"""The parts of a training, built from its spec, and what they can be asked together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.adam import Adam
from ppo_engine.backends import choose_backend
from ppo_engine.bundle import LayerManifest, NormalizerManifest, PolicyManifest
from ppo_engine.checkpoint import serialized
from ppo_engine.envs.catalogue import describe_environment, space_to_json
from ppo_engine.envs.registry import make_environment
from ppo_engine.envs.vector import VectorEnvironment, make_vector_environment
from ppo_engine.errors import DeviceUnavailable
from ppo_engine.experience import Experience
from ppo_engine.export import action_manifest, environment_manifest, spec_sha256
from ppo_engine.fused.rollout import FusedCollector, FusedRollout
from ppo_engine.fused.update import FusedLearner
from ppo_engine.metrics import EpisodeStatistics, MetricsWindow
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer
from ppo_engine.policy import Policy
from ppo_engine.random import environment_seeds, stream
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import EnvSpec, InvalidSpec, PPOSpec, TrainingSpec
from ppo_engine.update import Coefficients, Learner

R = TypeVar("R", bound=Experience)
R_co = TypeVar("R_co", bound=Experience, covariant=True)
R_contra = TypeVar("R_contra", bound=Experience, contravariant=True)


class CollectsExperience(Protocol[R_co]):
    """What steps the environments, and draws the noise of actions from `generator`."""

    generator: np.random.Generator

    @property
    def last_observations(self) -> NDArray[np.float32]:
        """[N, D], raw: where the environments stand; set from `reset` or `restore`."""

    @last_observations.setter
    def last_observations(self, observations: NDArray[np.float32]) -> None: ...

    def collect(self) -> R_co: ...


class LearnsFromExperience(Protocol[R_contra]):
    """What updates the policy, and draws the order of minibatches from `generator`."""

    adam: Adam
    generator: np.random.Generator

    def learn(self, rollout: R_contra, rewards: NDArray[np.float64], now: Coefficients) -> dict[str, float]: ...


@dataclass(frozen=True, slots=True)
class Backend(Generic[R]):
    """What computes: a collector, and the learner that understands its rollouts."""

    collector: CollectsExperience[R]
    learner: LearnsFromExperience[R]

    def iterate(
        self, take_in: Callable[[Experience], NDArray[np.float64]], now: Coefficients
    ) -> tuple[Experience, dict[str, float]]:
        """Collects experience and learns from it.

        Args:
            take_in: called in between with the experience; returns its rewards [T, N] as the learner is to see them.
        """
        rollout = self.collector.collect()
        return rollout, self.learner.learn(rollout, take_in(rollout), now)


@dataclass(frozen=True, slots=True)
class Components:
    """Each knows nothing of the others but what it was built with."""

    environment: VectorEnvironment
    policy: Policy
    normalizer: ObservationNormalizer | None
    reward_normalizer: RewardNormalizer | None
    backend: Backend[Rollout] | Backend[FusedRollout]
    episodes: EpisodeStatistics
    window: MetricsWindow

    def iterate(self, now: Coefficients) -> tuple[Experience, dict[str, float]]:
        """One iteration: what was experienced, and the metrics."""
        experience, metrics = self.backend.iterate(self._take_in, now)
        if self.normalizer is not None:
            self.normalizer.update(experience.raw_observations[experience.valid])
        return experience, metrics | self.episodes.metrics()

    def _take_in(self, experience: Experience) -> NDArray[np.float64]:
        """Counts the episodes that ended, and returns the rewards [T, N] as the learner is to see them."""
        done = experience.terminated | experience.truncated
        self.episodes.update(experience.rewards, done, experience.valid)
        if self.reward_normalizer is None:
            return experience.rewards
        self.reward_normalizer.update(experience.rewards, done, experience.valid)
        return self.reward_normalizer.normalize(experience.rewards)

    def likeliest_actions(self, observations: NDArray[np.float32]) -> NDArray[Any]:
        """Action rows of flat encoded observations [n, D], as they come from the environment."""
        return self.policy.deterministic_actions(self._normalized(observations))

    def sampler(self, generator: np.random.Generator) -> Callable[[NDArray[np.float32]], NDArray[Any]]:
        """Like `likeliest_actions`, but drawn from the policy's distribution by `generator`."""
        device = self.policy.device

        @torch.inference_mode()
        def sampled_actions(observations: NDArray[np.float32]) -> NDArray[Any]:
            noise = torch.from_numpy(self.policy.distribution.noise(generator, (len(observations),))).to(device)
            seen = torch.tensor(self._normalized(observations), device=device)
            return self.policy.environment_rows(self.policy.act(seen, noise)[0])

        return sampled_actions

    def policy_bytes(self) -> bytes:
        """The weights and statistics that actions depend on, as the file `policy.safetensors`."""
        arrays = {f"policy/{name}": array for name, array in self.policy.arrays(self.policy.flat).items()}
        if self.normalizer is not None:
            arrays |= {f"normalizer/{name}": array for name, array in self.normalizer.state().items()}
        return serialized(arrays)

    def policy_manifest(self, spec: TrainingSpec, observation_space: dict[str, JsonValue]) -> PolicyManifest:
        """What a reader of `policy_bytes` must know."""
        normalizer, names = self.normalizer, self.policy.layer_names()
        layers = [LayerManifest(weight=f"policy/{name}/weight", bias=f"policy/{name}/bias") for name in names]
        statistics = normalizer and {"epsilon": normalizer.epsilon, "clip": normalizer.clip}
        return PolicyManifest(
            env=environment_manifest(spec),
            spec_sha256=spec_sha256(spec),
            observation_size=self.policy.observation_size,
            observation_space=observation_space,
            action_space=action_manifest(self.policy.action_space),
            normalizer=NormalizerManifest(mean="normalizer/mean", variance="normalizer/variance", **statistics)
            if statistics
            else None,
            activation=spec.policy.activation,
            layers=tuple(layers),
            log_std="policy/log_std" if self.policy.action_space.kind == "box" else None,
            squash_output=spec.policy.squash_output,
        )

    def _normalized(self, observations: NDArray[np.float32]) -> NDArray[np.float32]:
        return observations if self.normalizer is None else self.normalizer.normalize(observations)


def build(spec: TrainingSpec, seed: int) -> Components:
    """The parts of a training as they are before its first step; `spec` is resolved.

    Raises: UnknownEnvironment, UnsupportedSpace, DeviceUnavailable, InvalidSpec.
    """
    ppo, normalize, device = spec.ppo, spec.normalize, device_of(spec)
    environment = make_vector_environment(spec.env, environment_seeds(seed, spec.env.n_envs))
    size, n_envs = environment.observation_size, environment.n_envs
    try:
        policy = Policy(spec.policy, size, environment.action_space, generator=stream(seed, "init"), device=device)
    except InvalidSpec:
        environment.close()
        raise
    normalizer = None
    if normalize.observations:
        normalizable = environment.encoder.normalizable
        normalizer = ObservationNormalizer(size, clip=normalize.clip_observations, normalizable=normalizable)
    return Components(
        environment=environment,
        policy=policy,
        normalizer=normalizer,
        reward_normalizer=RewardNormalizer(n_envs, gamma=ppo.gamma, clip=normalize.clip_rewards)
        if normalize.rewards
        else None,
        backend=fused_backend(environment, policy, normalizer, ppo, seed)
        if choose_backend(spec)[0] == "fused"
        else torch_backend(environment, policy, normalizer, ppo, seed),
        episodes=EpisodeStatistics(n_envs),
        window=MetricsWindow(spec.metrics.every_iterations or 1),
    )


def torch_backend(
    environment: VectorEnvironment, policy: Policy, normalizer: ObservationNormalizer | None, ppo: PPOSpec, seed: int
) -> Backend[Rollout]:
    """Any policy on any device."""
    generator = stream(seed, "actions")
    collector = Collector(environment, policy, normalizer, n_steps=ppo.n_steps, generator=generator)
    return Backend(collector, Learner(policy, ppo, stream(seed, "minibatches")))


def fused_backend(
    environment: VectorEnvironment, policy: Policy, normalizer: ObservationNormalizer | None, ppo: PPOSpec, seed: int
) -> Backend[FusedRollout]:
    """Compiled loops for MLP policies on the CPU."""
    generator = stream(seed, "actions")
    collector = FusedCollector(environment, policy, normalizer, n_steps=ppo.n_steps, generator=generator)
    return Backend(collector, FusedLearner(policy, ppo, stream(seed, "minibatches")))


def observation_space_of(env: EnvSpec) -> dict[str, JsonValue]:
    """The observation space that the environment has with the spec's arguments, as JSON."""
    if not env.kwargs:
        return describe_environment(env.id).observation_space
    made = make_environment(env)
    try:
        return space_to_json(made.observation_space)
    finally:
        made.close()


def device_of(spec: TrainingSpec) -> torch.device:
    """The device that the spec asks for; `auto` is the CPU, which is faster for an MLP. Raises DeviceUnavailable."""
    if spec.device != "cuda":
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise DeviceUnavailable("the spec asks for cuda, and this machine has no CUDA device")
    return torch.device("cuda")
