"""The parts of a training, built from its spec, and what they can be asked together."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.backends import choose_backend
from ppo_engine.bundle import LayerManifest, NormalizerManifest, PolicyManifest
from ppo_engine.checkpoint import serialized
from ppo_engine.cuda.backend import DeviceBackend
from ppo_engine.cuda.environment import DeviceEnvironment, is_device_native
from ppo_engine.cuda.uploaded import UploadingLearner
from ppo_engine.envs.catalogue import describe_environment, space_to_json
from ppo_engine.envs.registry import make_environment
from ppo_engine.envs.vector import VectorEnvironment, make_vector_environment
from ppo_engine.errors import DeviceUnavailable
from ppo_engine.export import action_manifest, environment_manifest, spec_sha256
from ppo_engine.fused.rollout import FusedCollector, FusedRollout
from ppo_engine.fused.update import FusedLearner
from ppo_engine.iteration import HostBackend
from ppo_engine.metrics import EpisodeStatistics, MetricsWindow
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer
from ppo_engine.policy import Policy
from ppo_engine.random import environment_seeds, seed_sequence, stream
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import EnvSpec, InvalidSpec, TrainingSpec
from ppo_engine.statistics import Statistics
from ppo_engine.update import Learner


@dataclass(frozen=True, slots=True)
class Components:
    """Each knows nothing of the others but what it was built with."""

    environment: VectorEnvironment
    policy: Policy
    statistics: Statistics
    backend: HostBackend[Rollout] | HostBackend[FusedRollout] | DeviceBackend
    window: MetricsWindow

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
        normalizer = self.statistics.normalizer
        if normalizer is not None:
            arrays |= {f"normalizer/{name}": array for name, array in normalizer.state().items()}
        return serialized(arrays)

    def policy_manifest(self, spec: TrainingSpec, observation_space: dict[str, JsonValue]) -> PolicyManifest:
        """What a reader of `policy_bytes` must know."""
        normalizer, names = self.statistics.normalizer, self.policy.layer_names()
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
        normalizer = self.statistics.normalizer
        return observations if normalizer is None else normalizer.normalize(observations)


def build(spec: TrainingSpec, seed: int, *, environment_cores: int | None = None) -> Components:
    """The parts of a training as they are before its first step; `spec` is resolved.

    Args:
        environment_cores: as `cores` of `make_vector_environment`.
    Raises: UnknownEnvironment, UnsupportedSpace, DeviceUnavailable, InvalidSpec.
    """
    device = device_of(spec)
    environment: VectorEnvironment
    if lives_on_device(spec):
        environment = DeviceEnvironment(spec.env, seed_sequence(seed, "env"), device=device)
    else:
        environment = make_vector_environment(
            spec.env, environment_seeds(seed, spec.env.n_envs), cores=environment_cores
        )
    size, actions = environment.observation_size, environment.action_space
    try:
        policy = Policy(spec.policy, size, actions, generator=stream(seed, "init"), device=device)
    except InvalidSpec:
        environment.close()
        raise
    statistics = statistics_for(spec, environment)
    return Components(
        environment=environment,
        policy=policy,
        statistics=statistics,
        backend=backend_for(spec, environment, policy, statistics, seed=seed),
        window=MetricsWindow(spec.metrics.every_iterations or 1),
    )


def lives_on_device(spec: TrainingSpec) -> bool:
    """Whether the environments of a resolved spec are tensors on its device. Raises UnknownEnvironment."""
    on_cuda = spec.env.vectorization == "auto" and spec.device == "cuda"
    return spec.env.vectorization == "device" or (on_cuda and is_device_native(spec.env))


def statistics_for(spec: TrainingSpec, environment: VectorEnvironment) -> Statistics:
    """The statistics of a training, before its first step."""
    normalize, n_envs, encoder = spec.normalize, environment.n_envs, environment.encoder
    normalizer, reward_normalizer = None, None
    if normalize.observations:
        clip = normalize.clip_observations
        normalizer = ObservationNormalizer(encoder.size, clip=clip, normalizable=encoder.normalizable)
    if normalize.rewards:
        reward_normalizer = RewardNormalizer(n_envs, gamma=spec.ppo.gamma, clip=normalize.clip_rewards)
    return Statistics(normalizer, reward_normalizer, EpisodeStatistics(n_envs))


def backend_for(
    spec: TrainingSpec, environment: VectorEnvironment, policy: Policy, statistics: Statistics, *, seed: int
) -> HostBackend[Rollout] | HostBackend[FusedRollout] | DeviceBackend:
    """What computes a training: on the device, by compiled loops, or by torch for any policy on any device."""
    ppo, normalizer = spec.ppo, statistics.normalizer
    if isinstance(environment, DeviceEnvironment):
        return DeviceBackend(environment, policy, ppo, statistics, seed=seed)
    actions, minibatches = stream(seed, "actions"), stream(seed, "minibatches")
    if choose_backend(spec)[0] == "fused":
        fused = FusedCollector(environment, policy, normalizer, n_steps=ppo.n_steps, generator=actions)
        return HostBackend(fused, FusedLearner(policy, ppo, minibatches), statistics)
    collector = Collector(environment, policy, normalizer, n_steps=ppo.n_steps, generator=actions)
    # A graph is of one shape: only environments that spend no steps on resets fill every row.
    if policy.device.type == "cuda" and environment.vectorization in ("sync", "process", "batched"):
        return HostBackend(collector, UploadingLearner(policy, ppo, environment.n_envs, minibatches), statistics)
    return HostBackend(collector, Learner(policy, ppo, minibatches), statistics)


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
