"""The parts of a training, built from its spec, and what they can be asked together."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import JsonValue

from ppo_engine.bundle import NormalizerManifest, PolicyManifest
from ppo_engine.checkpoint import serialized
from ppo_engine.cuda.backend import DeviceBackend
from ppo_engine.cuda.environment import DeviceEnvironment, is_device_native
from ppo_engine.cuda.uploaded import UploadingLearner
from ppo_engine.diagnosis import Diagnosis
from ppo_engine.envs.catalogue import describe_environment, space_to_json
from ppo_engine.envs.masks import GivesMasks
from ppo_engine.envs.mishaps import fault_of
from ppo_engine.envs.registry import make_environment
from ppo_engine.envs.spaces import Rows
from ppo_engine.envs.vector import VectorEnvironment, make_vector_environment
from ppo_engine.errors import DeviceUnavailable, EngineError, EnvironmentPlace
from ppo_engine.evaluate import Acts
from ppo_engine.export import (
    action_manifest,
    environment_manifest,
    image_manifests,
    layer_manifest,
    layer_manifests,
    memory_manifest,
    spec_sha256,
)
from ppo_engine.fused.rollout import FusedCollector, FusedRollout
from ppo_engine.fused.update import FusedLearner
from ppo_engine.halves import HalvesCollector, collects_by_halves
from ppo_engine.images import Image, columns_beside
from ppo_engine.iteration import HostBackend
from ppo_engine.metrics import EpisodeStatistics, MetricsWindow
from ppo_engine.normalization import ObservationNormalizer, RewardNormalizer, ValueNormalizer
from ppo_engine.policy import Policy
from ppo_engine.presets.backends import choose_backend, graph_obstacle
from ppo_engine.random import environment_seeds, seed_sequence, stream
from ppo_engine.recurrent.acting import Remembering
from ppo_engine.recurrent.collector import RecurrentCollector
from ppo_engine.recurrent.learner import RecurrentLearner
from ppo_engine.rollout import Collector, Rollout
from ppo_engine.spec import AtariSpec, EnvSpec, InvalidSpec, SpecFault, TrainingSpec
from ppo_engine.statistics import Statistics
from ppo_engine.trpo import TRPOLearner
from ppo_engine.update import Learner


@dataclass(frozen=True, slots=True)
class Components:
    """Each knows nothing of the others but what it was built with."""

    environment: VectorEnvironment
    policy: Policy
    statistics: Statistics
    backend: HostBackend[Rollout] | HostBackend[FusedRollout] | DeviceBackend
    window: MetricsWindow
    diagnosis: Diagnosis

    def action_masks(self) -> NDArray[np.bool_] | None:
        """What is valid where the environments stand, [N, masks]; None where they do not say."""
        return self.environment.action_masks if isinstance(self.environment, GivesMasks) else None

    def likeliest_actions(self, observations: Rows, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
        """Action rows of flat encoded observations [n, D], as they come from the environment, with their masks."""
        return self.policy.deterministic_actions(self._normalized(observations), masks)

    def sampler(self, generator: np.random.Generator) -> Acts:
        """Like `likeliest_actions`, but drawn from the policy's distribution by `generator`."""
        device = self.policy.device

        @torch.inference_mode()
        def sampled_actions(observations: Rows, masks: NDArray[np.bool_] | None = None) -> NDArray[Any]:
            noise = torch.from_numpy(self.policy.distribution.noise(generator, (len(observations),))).to(device)
            seen = torch.tensor(self._normalized(observations), device=device)
            valid = None if masks is None else torch.tensor(masks, device=device)
            return self.policy.environment_rows(self.policy.act(seen, noise, valid)[0])

        return sampled_actions

    def acting(self, generator: np.random.Generator | None = None) -> Acts:
        """What acts in environments of its own: by the likeliest actions, or by those that `generator` draws."""
        if self.policy.memory.state_size:
            return self.remembering(generator)
        return self.likeliest_actions if generator is None else self.sampler(generator)

    def remembering(self, generator: np.random.Generator | None = None) -> Remembering:
        """What acts with memory: by the likeliest actions, or by those that `generator` draws."""
        policy = self.policy

        def step(
            observations: Rows, state: NDArray[np.float32], masks: NDArray[np.bool_] | None
        ) -> tuple[NDArray[Any], NDArray[np.float32]]:
            noise = None if generator is None else policy.distribution.noise(generator, (len(observations),))
            return policy.remembering_actions(self._normalized(observations), state, masks, noise)

        return Remembering(step, policy.memory.state_size)

    def policy_bytes(self) -> bytes:
        """The weights and statistics that actions depend on, as the file `policy.safetensors`."""
        arrays = {f"policy/{name}": array for name, array in self.policy.arrays(self.policy.flat).items()}
        normalizer = self.statistics.normalizer
        if normalizer is not None:
            arrays |= {f"normalizer/{name}": array for name, array in normalizer.state().items()}
        return serialized(arrays)

    def policy_manifest(self, spec: TrainingSpec, observation_space: dict[str, JsonValue]) -> PolicyManifest:
        """What a reader of `policy_bytes` must know."""
        normalizer, trained = self.statistics.normalizer, self.policy.spec
        images = image_manifests(trained, self.policy.images)
        is_first_format = not images and not trained.layer_norm and trained.activation in ("tanh", "relu")
        is_first_format = is_first_format and trained.memory == "none"
        has_bytes_alone = self.environment.encoder.dtype == np.uint8
        statistics = normalizer and {"epsilon": normalizer.epsilon, "clip": normalizer.clip}
        return PolicyManifest(
            format=3 if self.policy.distribution.masks else 1 if is_first_format else 2,
            env=environment_manifest(spec),
            spec_sha256=spec_sha256(spec),
            observation_size=self.policy.observation_size,
            observation_space=observation_space,
            observation_dtype="uint8" if has_bytes_alone and images else "float32",
            images=images,
            memory=memory_manifest(trained),
            action_space=action_manifest(self.policy.action_space),
            normalizer=NormalizerManifest(mean="normalizer/mean", variance="normalizer/variance", **statistics)
            if statistics
            else None,
            activation=spec.policy.activation,
            layers=layer_manifests(self.policy.layer_names(), has_norms=trained.layer_norm),
            log_std="policy/log_std" if self.policy.log_std.numel() else None,
            log_std_layer=layer_manifest("actor/log_std") if self.policy.distribution.log_stds else None,
            use_sde=spec.policy.use_sde,
            action_masks=self.policy.distribution.masks,
            squash_output=spec.policy.squash_output,
        )

    def _normalized(self, observations: Rows) -> Rows:
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
        policy = Policy(
            spec.policy,
            size,
            actions,
            images=environment.encoder.images,
            generator=stream(seed, "init"),
            action_masks=spec.env.action_masks,
            device=device,
        )
        if actions.parts and choose_backend(spec)[0] == "fused":
            raise InvalidSpec([SpecFault("/backend", "Dict and Tuple actions need torch, which is to be asked for")])
        statistics = statistics_for(spec, environment, policy.images)
        backend = backend_for(spec, environment, policy, statistics, seed=seed)
    except InvalidSpec:
        environment.close()
        raise
    return Components(
        environment=environment,
        policy=policy,
        statistics=statistics,
        backend=backend,
        window=MetricsWindow(spec.metrics.every_iterations or 1),
        diagnosis=Diagnosis(spec),
    )


def lives_on_device(spec: TrainingSpec) -> bool:
    """Whether the environments of a resolved spec are tensors on its device. Raises UnknownEnvironment."""
    on_cuda = (
        spec.env.vectorization == "auto"
        and spec.device == "cuda"
        and spec.env.frame_stack == 1
        and not spec.env.action_masks
        and graph_obstacle(spec) is None
    )
    return spec.env.vectorization == "device" or (on_cuda and is_device_native(spec.env))


def statistics_for(spec: TrainingSpec, environment: VectorEnvironment, images: tuple[Image, ...] = ()) -> Statistics:
    """The statistics of a training, before its first step; what the policy sees as `images` is not normalised."""
    normalize, n_envs, encoder = spec.normalize, environment.n_envs, environment.encoder
    normalizer, reward_normalizer = None, None
    columns = np.concatenate([np.arange(0), *(np.arange(*border) for border in columns_beside(images, encoder.size))])
    if normalize.observations and len(columns):
        normalizer = ObservationNormalizer(
            len(columns),
            clip=normalize.clip_observations,
            epsilon=normalize.epsilon,
            normalizable=encoder.normalizable[columns],
            columns=columns if images else None,
        )
    if normalize.rewards:
        reward_normalizer = RewardNormalizer(n_envs, gamma=spec.ppo.gamma, clip=normalize.clip_rewards)
    value_normalizer = ValueNormalizer() if normalize.values else None
    clips_rewards = spec.env.atari is not None and spec.env.atari.clip_rewards
    return Statistics(
        normalizer,
        reward_normalizer,
        EpisodeStatistics(n_envs),
        value_normalizer=value_normalizer,
        clips_rewards=clips_rewards,
    )


def backend_for(
    spec: TrainingSpec, environment: VectorEnvironment, policy: Policy, statistics: Statistics, *, seed: int
) -> HostBackend[Rollout] | HostBackend[FusedRollout] | DeviceBackend:
    """What computes a training: on the device, by compiled loops, or by torch for any policy on any device."""
    ppo, normalizer, values = spec.ppo, statistics.normalizer, statistics.value_normalizer
    if isinstance(environment, DeviceEnvironment):
        return DeviceBackend(environment, policy, ppo, statistics, seed=seed)
    actions, minibatches = stream(seed, "actions"), stream(seed, "minibatches")
    space = environment.action_space
    clipped = space if space.is_bounded and not spec.policy.squash_output else None
    if choose_backend(spec)[0] == "fused":
        fused = FusedCollector(environment, policy, normalizer, n_steps=ppo.n_steps, generator=actions)
        fused_learner = FusedLearner(policy, ppo, minibatches, value_normalizer=values)
        return HostBackend(fused, fused_learner, statistics, clipped)
    perturbations = stream(seed, "perturbations")
    if spec.policy.memory != "none":
        recurrent = RecurrentLearner(policy, ppo, minibatches, perturbations=perturbations, value_normalizer=values)
        remembering: Collector = RecurrentCollector(
            environment, policy, normalizer, n_steps=ppo.n_steps, generator=actions
        )
        return HostBackend(remembering, recurrent, statistics, clipped)
    collects = HalvesCollector if collects_by_halves(environment, policy) else Collector
    collector = collects(environment, policy, normalizer, n_steps=ppo.n_steps, generator=actions)
    if policy.device.type == "cuda" and graph_obstacle(spec) is None:
        uploading = UploadingLearner(policy, ppo, environment.n_envs, minibatches)
        return HostBackend(collector, uploading, statistics, clipped)
    kind = TRPOLearner if ppo.objective == "trpo" else Learner
    learner = kind(policy, ppo, minibatches, perturbations=perturbations, value_normalizer=values)
    return HostBackend(collector, learner, statistics, clipped)


def observation_space_of(env: EnvSpec) -> dict[str, JsonValue]:
    """The observation space that the policy meets: of the environment with the spec's arguments, stacked; as JSON.

    Raises: UnknownEnvironment, UnsupportedSpace, InvalidSpec, EnvironmentFailed.
    """
    if not env.kwargs and env.frame_stack == 1 and env.atari in (None, AtariSpec()):
        return describe_environment(env.id).observation_space
    try:
        made = make_environment(env)
    except (EngineError, InvalidSpec):
        raise
    except (Exception, SystemExit) as error:
        raise fault_of(error, EnvironmentPlace(env.id, 0, 0, 0), expired=None) from error
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
